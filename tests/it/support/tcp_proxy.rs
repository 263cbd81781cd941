//! A TCP proxy that injects faults.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What the proxy does to what passes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Weather {
    /// Everything passes.
    #[default]
    Fair,
    /// Every chunk waits this long, in both directions.
    Slow(Duration),
    /// What the client sends passes, what the server answers is thrown away.
    Mute,
    /// Nothing passes, in neither direction; it waits.
    Jam,
    /// Connections are cut, and new ones too, at once.
    Cut,
    /// The client's bytes wait in front of these.
    HoldBefore(&'static [u8]),
}

/// A TCP proxy in front of a server. It ends when dropped.
pub struct TcpProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    weather: watch::Sender<Weather>,
    connections: AtomicUsize,
    /// How many client chunks wait in front of a pattern.
    held: watch::Sender<usize>,
    /// Chunks of a server's answers that were thrown away.
    swallowed: watch::Sender<usize>,
    /// Chunks that a client sent.
    chunks: AtomicUsize,
}

impl TcpProxy {
    /// A proxy on a free port.
    pub async fn start(server_port: u16) -> TcpProxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("a bound listener has one");
        let shared = Arc::new(Shared {
            weather: watch::Sender::default(),
            connections: AtomicUsize::new(0),
            held: watch::Sender::new(0),
            swallowed: watch::Sender::new(0),
            chunks: AtomicUsize::new(0),
        });
        let task = tokio::spawn(accept(listener, server_port, shared.clone()));
        TcpProxy { address, shared, task }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    pub fn set(&self, weather: Weather) {
        self.shared.weather.send_replace(weather);
    }

    /// How many connections were made through it.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// How many chunks clients sent; a client that waits for its answer sends one per round trip.
    pub fn client_chunks(&self) -> usize {
        self.shared.chunks.load(Ordering::SeqCst)
    }

    /// Waits until a client's bytes are held.
    pub async fn holding(&self) {
        self.shared.held.subscribe().wait_for(|held| *held > 0).await.expect("the proxy lives");
    }

    /// Waits until a server's answer was thrown away.
    pub async fn swallowed(&self) {
        self.shared.swallowed.subscribe().wait_for(|swallowed| *swallowed > 0).await.expect("the proxy lives");
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.task.abort();
        self.shared.weather.send_replace(Weather::Cut);
    }
}

async fn accept(listener: TcpListener, server_port: u16, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        shared.connections.fetch_add(1, Ordering::SeqCst);
        if *shared.weather.borrow() == Weather::Cut {
            continue;
        }
        let Ok(server) = TcpStream::connect(("127.0.0.1", server_port)).await else { continue };
        let _ = client.set_nodelay(true);
        let _ = server.set_nodelay(true);
        let shared = shared.clone();
        tokio::spawn(async move {
            let (client_read, client_write) = client.into_split();
            let (server_read, server_write) = server.into_split();
            let mut weather = shared.weather.subscribe();
            tokio::select! {
                () = forward(client_read, server_write, &shared, Side::Client) => {}
                () = forward(server_read, client_write, &shared, Side::Server) => {}
                _ = weather.wait_for(|weather| *weather == Weather::Cut) => {}
            }
        });
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}

async fn forward(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, shared: &Shared, side: Side) {
    let mut weather = shared.weather.subscribe();
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let chunk = &buffer[..length];
        if side == Side::Client {
            shared.chunks.fetch_add(1, Ordering::SeqCst);
        }
        let now = weather.borrow_and_update().clone();
        let (passes, waits) = match (now, side) {
            (Weather::Fair, _) | (Weather::HoldBefore(_), Side::Server) | (Weather::Mute, Side::Client) => {
                (length, false)
            }
            (Weather::Slow(delay), _) => {
                tokio::time::sleep(delay).await;
                (length, false)
            }
            (Weather::Mute, Side::Server) => {
                shared.swallowed.send_modify(|swallowed| *swallowed += 1);
                continue;
            }
            (Weather::Jam, _) => (0, true),
            (Weather::Cut, _) => return,
            (Weather::HoldBefore(pattern), Side::Client) => {
                match chunk.windows(pattern.len()).position(|window| window == pattern) {
                    Some(at) => (at, true),
                    None => (length, false),
                }
            }
        };
        if to.write_all(&chunk[..passes]).await.is_err() {
            return;
        }
        if waits {
            shared.held.send_modify(|held| *held += 1);
            if weather.wait_for(|weather| *weather == Weather::Fair).await.is_err() {
                return;
            }
            shared.held.send_modify(|held| *held -= 1);
            if to.write_all(&chunk[passes..]).await.is_err() {
                return;
            }
        }
    }
}
