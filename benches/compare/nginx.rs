//! nginx as a plain proxy: as many workers as cores, connections kept, nothing logged.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use crate::Result;
use crate::cores::Cores;
use crate::process::{Process, free_port, text};

/// nginx, and where it listens.
pub struct Nginx {
    pub process: Process,
    pub address: SocketAddr,
}

impl Nginx {
    pub fn start(program: &Path, folder: &Path, upstream: SocketAddr, cores: Cores) -> Result<Nginx> {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let file = folder.join("nginx.conf");
        fs::write(&file, configuration(folder, address, upstream, cores))?;
        let command = [text(program)?, "-p", text(folder)?, "-e", "stderr", "-c", text(&file)?];
        let (process, _) = Process::start("nginx", &command, cores.server_list(), "start worker process ")?;
        Ok(Nginx { process, address })
    }
}

fn configuration(folder: &Path, address: SocketAddr, upstream: SocketAddr, cores: Cores) -> String {
    let folder = folder.display();
    let workers = cores.of_server();
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
events {{ worker_connections 4096; }}
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
        listen {address} backlog=4096;
        location / {{
            proxy_pass http://fixed;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
        }}
    }}
}}
"
    )
}
