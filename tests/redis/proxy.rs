//! A network between a gateway and its Redis, which a test makes slow, or silent, or breaks.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What it does to bytes, either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Network {
    Passes,
    /// Each piece comes this much later.
    Delays(Duration),
    /// Nothing comes through, and nothing is refused.
    Swallows,
    /// Connections break, and new ones break at once.
    Breaks,
}

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    network: Arc<watch::Sender<Network>>,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (network, connections) = (Arc::new(watch::Sender::new(Network::Passes)), Arc::new(AtomicUsize::new(0)));
        let (states, count) = (Arc::clone(&network), Arc::clone(&connections));
        let task = tokio::spawn(async move {
            loop {
                let (near, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                let states = states.subscribe();
                if *states.borrow() == Network::Breaks {
                    continue;
                }
                tokio::spawn(async move {
                    let Ok(far) = TcpStream::connect(server).await else { return };
                    let (mut near_in, mut near_out) = near.into_split();
                    let (mut far_in, mut far_out) = far.into_split();
                    let (mut there, mut back, mut broken) = (states.clone(), states.clone(), states);
                    tokio::select! {
                        () = pass(&mut near_in, &mut far_out, &mut there) => {}
                        () = pass(&mut far_in, &mut near_out, &mut back) => {}
                        _ = broken.wait_for(|network| *network == Network::Breaks) => {}
                    }
                });
            }
        });
        Self { address, network, connections, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    pub(crate) fn is_now(&self, network: Network) {
        self.network.send_replace(network);
    }

    /// How many connections were tried so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(
    from: &mut tokio::net::tcp::OwnedReadHalf,
    to: &mut tokio::net::tcp::OwnedWriteHalf,
    network: &mut watch::Receiver<Network>,
) {
    let mut some = [0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut some).await {
        let now = *network.borrow();
        match now {
            // That is what the network is told to be, and no test waits for it.
            Network::Delays(delay) => tokio::time::sleep(delay).await,
            Network::Swallows => {
                let Ok(_) = network.wait_for(|network| *network != Network::Swallows).await else { return };
            }
            Network::Passes | Network::Breaks => {}
        }
        if to.write_all(&some[..read]).await.is_err() {
            return;
        }
    }
}
