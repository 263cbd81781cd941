//! A proxy in this process, an upstream that records the bytes it gets, and a client that sends bytes.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use onceproxy::Policy;
use onceproxy::app::{self, PortTaken};
use onceproxy::config::{AdminConfig, Config, LogConfig, StoreConfig};
use onceproxy::proxy::listener::ListenerSpec;
use onceproxy::proxy::router::RouteSpec;
use onceproxy::proxy::upstream::{Transport, UpstreamSpec};
use onceproxy::stores::url::{StoreOptions, StoreUrl};
use tokio::sync::oneshot;

/// How long a test waits for bytes before it fails.
const PATIENCE: Duration = Duration::from_secs(10);

/// A message as it came over the wire.
#[derive(Debug, Clone, Default)]
pub struct Message {
    pub head: String,
    pub body: Vec<u8>,
    /// The lines behind the last chunk.
    pub trailers: String,
}

impl Message {
    /// The values of a field, in order.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.head
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(':'))
            .filter(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
            .collect()
    }

    /// The only value of a field.
    pub fn one(&self, name: &str) -> &str {
        match self.all(name).as_slice() {
            [value] => value,
            values => panic!("{name} stands there {} times in:\n{}", values.len(), self.head),
        }
    }

    pub fn has(&self, name: &str) -> bool {
        !self.all(name).is_empty()
    }

    pub fn start_line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }

    pub fn status(&self) -> u16 {
        self.start_line().split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The code of a problem document.
    pub fn code(&self) -> String {
        let problem: serde_json::Value = serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in {}\n{}", self.head, self.text()));
        problem["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// What a proxy's admin listener says of its requests with this outcome.
pub fn requests_total(admin: SocketAddr, outcome: &str) -> u64 {
    let mut stream = TcpStream::connect(admin).expect("the admin listener accepts");
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n").expect("it reads");
    let mut metrics = String::new();
    stream.read_to_string(&mut metrics).expect("metrics");
    let outcome = format!("outcome=\"{outcome}\"");
    let lines = metrics.lines().filter(|line| line.starts_with("onceproxy_requests_total{") && line.contains(&outcome));
    lines.map(|line| line.rsplit(' ').next().expect("a value").parse::<u64>().expect("a number")).sum()
}

/// Reads one message; `None` when the other side closes before its first byte.
pub fn read_message(stream: &mut impl Read, has_body: bool) -> Option<Message> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => bytes.push(byte[0]),
            Ok(_) if bytes.is_empty() => return None,
            // Closed without a goodbye of TLS, or with bytes unread.
            Err(error) if bytes.is_empty() && is_the_end(&error) => return None,
            end => panic!("the message ended early ({end:?}): {}", String::from_utf8_lossy(&bytes)),
        }
    }
    let mut message = Message { head: String::from_utf8_lossy(&bytes).into_owned(), ..Message::default() };
    if !has_body || message.status() == 204 || message.status() == 304 {
        return Some(message);
    }
    if message.all("transfer-encoding") == ["chunked"] {
        loop {
            let mut line = Vec::new();
            while !line.ends_with(b"\r\n") {
                stream.read_exact(&mut byte).expect("a chunk's line");
                line.push(byte[0]);
            }
            let size = usize::from_str_radix(String::from_utf8_lossy(&line).trim(), 16).expect("a chunk's size");
            let mut chunk = vec![0; size + 2];
            stream.read_exact(&mut chunk).expect("a chunk");
            message.body.extend_from_slice(&chunk[..size]);
            if size == 0 {
                message.trailers = trailers(stream, String::from_utf8_lossy(&chunk).into_owned());
                return Some(message);
            }
        }
    }
    let length = message.all("content-length").first().map_or(0, |length| length.parse().expect("a length"));
    message.body = vec![0; length];
    stream.read_exact(&mut message.body).expect("a body");
    Some(message)
}

fn is_the_end(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset)
}

/// Reads what is left of the trailers, of which the first two bytes have been read.
fn trailers(stream: &mut impl Read, mut lines: String) -> String {
    let mut byte = [0];
    while lines != "\r\n" && !lines.ends_with("\r\n\r\n") {
        stream.read_exact(&mut byte).expect("trailers");
        lines.push(char::from(byte[0]));
    }
    lines
}

/// What the upstream does with one request.
pub type Script = Box<dyn FnMut(&Message, &mut TcpStream) + Send>;

/// An upstream that records what it gets.
pub struct Upstream {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Message>>>,
    connections: Arc<Mutex<usize>>,
    script: Arc<Mutex<Script>>,
}

impl Upstream {
    pub fn start() -> Upstream {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let upstream = Upstream {
            address: listener.local_addr().expect("its address"),
            seen: Arc::default(),
            connections: Arc::default(),
            script: Arc::new(Mutex::new(answer_with("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"))),
        };
        let (seen, connections, script) =
            (upstream.seen.clone(), upstream.connections.clone(), upstream.script.clone());
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                *connections.lock().expect("the count") += 1;
                let (seen, script) = (seen.clone(), script.clone());
                thread::spawn(move || {
                    while let Some(message) = read_message(&mut stream, true) {
                        seen.lock().expect("the list").push(message.clone());
                        (script.lock().expect("the script"))(&message, &mut stream);
                    }
                });
            }
        });
        upstream
    }

    pub fn answers(&self, response: &'static str) {
        self.acts(answer_with(response));
    }

    pub fn acts(&self, script: Script) {
        *self.script.lock().expect("the script") = script;
    }

    pub fn seen(&self) -> Vec<Message> {
        self.seen.lock().expect("the list").clone()
    }

    pub fn last(&self) -> Message {
        self.seen().pop().expect("the upstream got a request")
    }

    pub fn count(&self) -> usize {
        self.seen().len()
    }

    pub fn connections(&self) -> usize {
        *self.connections.lock().expect("the count")
    }
}

pub fn answer_with(response: &'static str) -> Script {
    Box::new(move |_, stream| stream.write_all(response.as_bytes()).expect("the proxy listens"))
}

/// A proxy in this process, ended when dropped.
pub struct Proxy {
    /// Nowhere, where the proxy listens on a path.
    pub address: SocketAddr,
    pub upstream: Upstream,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

/// How a test sets the proxy up.
pub struct Setup {
    pub listener: ListenerSpec,
    pub upstream: UpstreamSpec,
    pub routes: Vec<(Option<&'static str>, &'static str, Policy)>,
}

impl Setup {
    /// One route for everything, with the default policy.
    pub fn new() -> Setup {
        Setup {
            listener: ListenerSpec {
                address: SocketAddr::from(([127, 0, 0, 1], 0)).into(),
                shutdown_grace: Duration::from_secs(1),
                ..ListenerSpec::default()
            },
            upstream: UpstreamSpec {
                name: "api".into(),
                transport: Transport::Tcp,
                host: "127.0.0.1".into(),
                port: 0,
                authority: "".into(),
                connect_timeout: Duration::from_secs(2),
                response_timeout: Duration::from_secs(5),
                idle_timeout: Duration::from_secs(4),
                max_connections: 64,
                preserve_host: true,
            },
            routes: vec![(None, "/{*rest}", Policy::optional().route("all"))],
        }
    }

    pub fn routes(mut self, routes: Vec<(Option<&'static str>, &'static str, Policy)>) -> Setup {
        self.routes = routes;
        self
    }

    pub fn listener(mut self, change: impl FnOnce(&mut ListenerSpec)) -> Setup {
        change(&mut self.listener);
        self
    }

    pub fn upstream(mut self, change: impl FnOnce(&mut UpstreamSpec)) -> Setup {
        change(&mut self.upstream);
        self
    }

    pub fn start(self) -> Proxy {
        let upstream = Upstream::start();
        let mut spec = self.upstream;
        if spec.port == 0 {
            spec.port = upstream.address.port();
        }
        if spec.authority.is_empty() {
            spec.authority = format!("{}:{}", spec.host, spec.port).into();
        }
        let spec = Arc::new(spec);
        let routes = self.routes.into_iter().map(|(host, path, policy)| RouteSpec {
            host: host.map(Arc::from),
            path: path.into(),
            policy: Arc::new(policy),
            upstream: spec.clone(),
        });
        let config = Config {
            listener: self.listener,
            admin: None::<AdminConfig>,
            log: LogConfig { level: "warn".into(), format: Default::default(), access: false },
            store: StoreConfig {
                url: StoreUrl::parse("memory:").expect("a URL"),
                options: StoreOptions {
                    prefix: "once".into(),
                    command_timeout: Duration::from_millis(500),
                    allow_eviction: false,
                },
            },
            routes: routes.collect(),
            upstreams: vec![spec],
        };
        let (stop, stopped) = oneshot::channel();
        let (started, address) = mpsc::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let shutdown = async move { drop(stopped.await) };
            let run = app::run(config, PortTaken::Fail, shutdown, |told| {
                let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
                started.send(told.data.socket().unwrap_or(nowhere)).expect("the test waits");
            });
            runtime.block_on(run).expect("the proxy runs");
        });
        let address = address.recv_timeout(PATIENCE).expect("the proxy starts");
        Proxy { address, upstream, stop: Some(stop), thread: Some(thread) }
    }
}

impl Proxy {
    pub fn start() -> Proxy {
        Setup::new().start()
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("the proxy accepts");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        stream
    }

    /// Sends bytes on a new connection and reads one answer.
    pub fn send(&self, request: impl AsRef<[u8]>) -> Message {
        let mut stream = self.connect();
        stream.write_all(request.as_ref()).expect("the proxy reads");
        let has_body = !request.as_ref().starts_with(b"HEAD ");
        read_message(&mut stream, has_body).expect("an answer")
    }

    /// A small POST with these fields.
    pub fn post(&self, path: &str, fields: &str, body: &str) -> Message {
        self.send(post(path, fields, body))
    }

    /// Ends the proxy and waits for it.
    pub fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the proxy ends well");
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let (Some(thread), false) = (self.thread.take(), thread::panicking()) {
            thread.join().expect("the proxy ends well");
        }
    }
}

/// Sends a request on a connection and reads its answer.
pub fn exchange(stream: &mut TcpStream, request: &str) -> Message {
    stream.write_all(request.as_bytes()).expect("the proxy reads");
    read_message(stream, true).expect("an answer")
}

pub fn post(path: &str, fields: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: api\r\ncontent-length: {}\r\n{fields}\r\n{body}", body.len())
}

/// A request of which the first chunk, `ab`, was sent: its proxy, its client, and the upstream's connection for it.
pub fn begin_chunks() -> (Proxy, TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its address").port();
    let proxy = Setup::new().upstream(|upstream| upstream.port = port).start();
    let mut client = proxy.connect();
    let part = "POST / HTTP/1.1\r\nhost: api\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n";
    client.write_all(part.as_bytes()).expect("the proxy reads");
    let (upstream, _) = listener.accept().expect("the proxy connects");
    (proxy, client, upstream)
}
