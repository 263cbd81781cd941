//! nginx as a plain proxy: as many workers as cores, connections kept, nothing logged.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use crate::Result;
use crate::cores::Cores;
use crate::process::{Process, free_port, text};
use crate::proxy::Setup;
use crate::secure::Transport;

/// The path on which nothing is buffered.
pub const STREAMED: &str = "/streamed";
/// The path on which a body above 16 KiB is put into a file before it is sent on, which is nginx's default.
pub const SPOOLED: &str = "/spooled";

/// Connections of a worker, where nothing else is said.
const CONNECTIONS: usize = 4096;

/// nginx, and where it listens.
pub struct Nginx {
    pub process: Process,
    pub address: SocketAddr,
}

impl Nginx {
    pub fn start(program: &Path, folder: &Path, upstream: SocketAddr, cores: Cores, setup: &Setup) -> Result<Nginx> {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let file = folder.join("nginx.conf");
        fs::write(&file, configuration(folder, address, upstream, cores, setup))?;
        let command = [text(program)?, "-p", text(folder)?, "-e", "stderr", "-c", text(&file)?];
        let (process, _) = Process::start("nginx", &command, cores.server_list(), "start worker process ")?;
        Ok(Nginx { process, address })
    }
}

fn configuration(folder: &Path, address: SocketAddr, upstream: SocketAddr, cores: Cores, setup: &Setup) -> String {
    let (listen, tls) = match &setup.transport {
        Transport::Clear => ("", String::new()),
        Transport::Http2 => ("http2", String::new()),
        Transport::Tls(files) => {
            let (certificate, key) = (files.certificate.display(), files.key.display());
            // 1.22 has to be asked for TLS 1.3.
            let settings =
                format!("ssl_certificate {certificate}; ssl_certificate_key {key}; ssl_protocols TLSv1.2 TLSv1.3;");
            ("ssl http2", settings)
        }
    };
    let folder = folder.display();
    let workers = cores.of_server();
    let connections = setup.nginx_connections.unwrap_or(CONNECTIONS);
    // Its workers may otherwise not read the folder.
    let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
    format!(
        "\
{user}
worker_processes {workers};
daemon off;
error_log stderr notice;
pid {folder}/nginx.pid;
worker_rlimit_nofile 8192;
events {{ worker_connections {connections}; }}
http {{
    access_log off;
    error_log stderr crit;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_requests 1000000000;
    keepalive_timeout 300s;
    client_max_body_size 2m;
    client_body_buffer_size 2m;
    upstream fixed {{
        server {upstream};
        keepalive 1024;
        keepalive_requests 1000000000;
        keepalive_timeout 300s;
    }}
    server {{
        listen {address} {listen} backlog=4096;
        {tls}
        proxy_http_version 1.1;
        proxy_set_header Connection \"\";
        location / {{ proxy_pass http://fixed; }}
        location {STREAMED} {{
            proxy_pass http://fixed;
            client_max_body_size 0;
            proxy_request_buffering off;
            proxy_buffering off;
        }}
        location {SPOOLED} {{
            proxy_pass http://fixed;
            client_max_body_size 0;
            client_body_buffer_size 16k;
        }}
    }}
}}
"
    )
}
