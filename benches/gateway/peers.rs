//! The strongest proxies that can be set up for this job or something near it: which program, with which configuration. What each
//! does and does not do stands in its configuration, in `benches/gateway/peers/`. `benches/peers` installs them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::candidate::Site;

/// A single process.
pub(crate) fn haproxy(site: &Site) -> io::Result<Command> {
    let mut command = Command::new(found("haproxy")?);
    let log = if site.logged { "log stdout format raw local0\n  option httplog" } else { "" };
    command.arg("-db").arg("-f").arg(configured("haproxy.cfg", include_str!("peers/haproxy.cfg"), site, log)?);
    Ok(command)
}

/// A master and its workers.
pub(crate) fn nginx(site: &Site) -> io::Result<Command> {
    let mut command = Command::new(found("nginx")?);
    if !Path::new(NGINX_MODULES).join("ngx_http_lua_module.so").exists() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "nginx has no Lua module"));
    }
    let log = if site.logged { "/dev/null combined buffer=64k" } else { "off" };
    let config = configured("nginx.conf", include_str!("peers/nginx.conf"), site, log)?;
    command.arg("-p").arg(&site.scratch).arg("-e").arg(site.scratch.join("error.log")).arg("-c").arg(config);
    Ok(command)
}

/// A single process.
pub(crate) fn envoy(site: &Site) -> io::Result<Command> {
    let mut command = Command::new(found("envoy")?);
    let log = if site.logged { ENVOY_LOG } else { "" };
    command.arg("-c").arg(configured("envoy.yaml", include_str!("peers/envoy.yaml"), site, log)?);
    command.args(["--disable-hot-restart", "--log-level", "off", "--concurrency", &site.workers.to_string()]);
    Ok(command)
}

const NGINX_MODULES: &str = "/usr/lib/nginx/modules";

const ENVOY_LOG: &str = r#" { name: log, typed_config: { "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: /dev/null } } "#;

/// Where a program is: where `benches/peers` puts it, in `PATH`, or where Debian has what only root starts.
fn found(program: &str) -> io::Result<PathBuf> {
    let ours = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.cache/peers"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(ours).chain(std::env::split_paths(&path)).chain(["/usr/sbin".into()]);
    let found = folders.map(|folder| folder.join(program)).find(|file| file.is_file());
    found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("there is no {program}")))
}

/// Writes a configuration for this site.
fn configured(name: &str, text: &str, site: &Site, log: &str) -> io::Result<PathBuf> {
    let mut text = text.to_owned();
    // Room for the head beside the body.
    let buffer = (site.body + 8192).next_multiple_of(16384);
    for (mark, value) in [
        ("@LISTEN@", site.listen.to_string()),
        ("@LISTEN_IP@", site.listen.ip().to_string()),
        ("@LISTEN_PORT@", site.listen.port().to_string()),
        ("@UPSTREAM@", site.upstream.to_string()),
        ("@UPSTREAM_IP@", site.upstream.ip().to_string()),
        ("@UPSTREAM_PORT@", site.upstream.port().to_string()),
        ("@WORKERS@", site.workers.to_string()),
        ("@POOL@", site.pool().to_string()),
        ("@SCRATCH@", site.scratch.display().to_string()),
        ("@BUFFER@", buffer.to_string()),
        ("@MODULES@", NGINX_MODULES.to_owned()),
        ("@ARCH@", std::env::consts::ARCH.to_owned()),
        ("@LOG@", log.to_owned()),
    ] {
        text = text.replace(mark, &value);
    }
    let file = site.scratch.join(name);
    fs::write(&file, text)?;
    Ok(file)
}
