//! Loading the configuration anew while the program serves: on SIGHUP, and when one of its files says something else.
//!
//! The files are looked at once a second, and compared by what they say. inotify would tell sooner, but not of everything: not of a bind
//! mount that is replaced, nor of what another machine writes over NFS; and the chain of symlinks that a ConfigMap is made of takes a watch
//! on each of its folders. Looking takes a few system calls a second, and needs to know none of that.

mod source;

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::Signal;
use tokio::time::MissedTickBehavior;

use crate::config::Config;
use crate::log;
use crate::server::Reloader;
use crate::systemd::{self, Notice};
pub(crate) use source::{Loaded, Marks, Source};

/// How often files are looked at. They have to stand still for as long before they are loaded, so that what is being written is not.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Loads the configuration anew whenever there is a reason to, for as long as it is polled. `marks` are those of the one in force.
pub(crate) async fn follow(source: Source, marks: Marks, reload: Reloader, mut hup: Signal) {
    let source = Arc::new(source);
    let (mut tried, mut seen) = (marks.clone(), marks);
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let is_asked = tokio::select! {
            Some(()) = hup.recv() => true,
            _ = looks.tick(), if source.has_file() && reload.is_watching() => false,
        };
        if !source.has_file() {
            tracing::warn!("HUP: there is nothing to load, as there is no configuration file");
            continue;
        }
        if !is_asked {
            let (source, files) = (Arc::clone(&source), tried.clone());
            let Some(now) = aside(move || source.look(files.files())).await else { continue };
            let stands_still = now == seen;
            seen = now;
            if !stands_still || seen == tried {
                continue;
            }
        }
        let reading = Arc::clone(&source);
        let Some(loaded) = aside(move || reading.load_again()).await else { continue };
        seen = loaded.marks;
        if !is_asked && !loaded.stands_still {
            continue;
        }
        tried = seen.clone();
        systemd::tell(Notice::Reloading);
        take(loaded.config, &reload).await;
        systemd::tell(Notice::Ready);
    }
}

/// Does what may wait for a disk, where no request waits for it.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Some(done),
        Err(error) => {
            tracing::error!(%error, "the configuration could not be looked at");
            None
        }
    }
}

/// Puts a configuration in force, if nothing is wrong with it; tells what came of it.
async fn take(config: Result<Config, Vec<String>>, reload: &Reloader) {
    let prepared = match config {
        Ok(config) => reload.prepare(config).await,
        Err(mistakes) => Err(mistakes),
    };
    let before = reload.config().log.filter;
    let prepared = prepared.and_then(|prepared| {
        let filter = &prepared.config().log.filter;
        // What was set at run time stays until the configuration says something else.
        let set = if *filter == before { Ok(()) } else { log::set_filter(filter) };
        set.map(|()| prepared).map_err(|mistake| vec![mistake])
    });
    let applied = match prepared {
        Ok(prepared) => prepared.apply(),
        Err(mistakes) => {
            // Counted first: whoever has read the lines finds it in the metrics.
            reload.reject();
            for mistake in mistakes {
                tracing::error!(%mistake, "the configuration is not taken: the one before it stays in force");
            }
            return;
        }
    };
    let changed = if applied.changed.is_empty() { "nothing".to_owned() } else { applied.changed.join(", ") };
    tracing::info!(changed, "the configuration was loaded anew");
    if !applied.kept.is_empty() {
        tracing::warn!(keys = %applied.kept.join(", "), "what these say takes a restart: they stay as they were");
    }
    for (limit, from) in applied.catching_up {
        tracing::info!(limit, %from, "from then on this limit counts all that it asks for; until then, what had not been forgotten");
    }
}
