//! pingora with nothing in it: what a proxy costs before it does anything of its own.
//!
//! It is this very program, started again with another argument, and has the gateway's allocator.

use std::io;
use std::net::SocketAddr;
use std::process::Command;

use async_trait::async_trait;
use pingora::proxy::{ProxyHttp, Session, http_proxy_service};
use pingora::server::Server;
use pingora::server::configuration::ServerConf;
use pingora::upstreams::peer::HttpPeer;

use crate::candidate::Site;

/// The argument that makes this program the proxy.
pub(crate) const ARGUMENT: &str = "bare-pingora";

struct Bare {
    upstream: SocketAddr,
}

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _session: &mut Session, _context: &mut ()) -> pingora::Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.upstream, false, String::new())))
    }
}

/// The command that runs it.
pub(crate) fn command(site: &Site) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args([ARGUMENT, &site.listen.to_string(), &site.upstream.to_string()]);
    command.args([site.workers.to_string(), site.pool().to_string()]);
    Ok(command)
}

/// Serves, until it is killed.
pub(crate) fn run(listen: &str, upstream: SocketAddr, workers: usize, pool: usize) {
    let conf = ServerConf { threads: workers, upstream_keepalive_pool_size: pool, ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let mut service = http_proxy_service(&server.configuration, Bare { upstream });
    service.add_tcp(listen);
    server.add_service(service);
    server.run_forever();
}
