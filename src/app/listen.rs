//! The sockets: bound here, or inherited from whoever started this process.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tracing::{info, warn};

use super::{AppError, PortTaken};
use crate::config::Config;
use crate::proxy::listener::Listener;
use crate::proxy::listener::address::Address;

/// How often a port is tried again that another process has.
const TRY_EVERY: Duration = Duration::from_millis(100);

/// Sockets that listen already, opened by whoever started this process. The addresses of the configuration count for
/// the others only.
#[derive(Debug, Default)]
pub struct Inherited {
    /// For the data listener. The process before this one may still be at work on it.
    pub data: Option<std::net::TcpListener>,
    /// For the admin listener.
    pub admin: Option<std::net::TcpListener>,
}

/// What is listened on.
pub(super) struct Listeners {
    pub(super) data: Listener,
    pub(super) data_origin: Origin,
    pub(super) admin: AdminListener,
}

/// Where a socket comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    Bound,
    Inherited,
}

/// The admin listener, as far as it is there.
pub(super) enum AdminListener {
    /// There is to be none.
    None,
    /// It listens.
    Here(TcpListener, Origin),
    /// The process before this one still has the port.
    Later(SocketAddr),
}

impl Listeners {
    /// Takes what was inherited and binds the rest.
    pub(super) async fn open(config: &Config, inherited: Inherited, taken: PortTaken) -> Result<Listeners, AppError> {
        let has_forerunner = inherited.data.is_some();
        let (data, data_origin) = match inherited.data {
            Some(socket) => {
                let socket = adopt(socket, "data", &config.listener.address)?;
                (Listener::Tcp(socket), Origin::Inherited)
            }
            None => {
                let bound = Listener::bind(&config.listener.address).await;
                (bound.map_err(|error| AppError::Bind(config.listener.address.clone(), error))?, Origin::Bound)
            }
        };
        let admin = match (&config.admin, inherited.admin) {
            (None, None) => AdminListener::None,
            (None, Some(_)) => {
                warn!("a socket for the admin listener was inherited, but there is no [admin]: it is closed");
                AdminListener::None
            }
            (Some(admin), Some(socket)) => {
                let socket = adopt(socket, "admin", &admin.address.into())?;
                let address = address(&socket)?;
                if !address.ip().is_loopback() && admin.token.is_none() {
                    return Err(AppError::Unguarded(address));
                }
                AdminListener::Here(socket, Origin::Inherited)
            }
            (Some(admin), None) => match bind(admin.address, taken).await {
                Ok(socket) => AdminListener::Here(socket, Origin::Bound),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && has_forerunner => {
                    warn!("the admin address {} is taken, by the process before this one as it seems", admin.address);
                    AdminListener::Later(admin.address)
                }
                Err(error) => return Err(AppError::Bind(admin.address.into(), error)),
            },
        };
        Ok(Listeners { data, data_origin, admin })
    }
}

impl AdminListener {
    pub(super) fn origin(&self) -> Origin {
        match self {
            AdminListener::Here(_, origin) => *origin,
            AdminListener::None | AdminListener::Later(_) => Origin::Bound,
        }
    }

    /// Where it listens, if it does yet.
    pub(super) fn address(&self) -> Result<Option<SocketAddr>, AppError> {
        match self {
            AdminListener::Here(listener, _) => address(listener).map(Some),
            AdminListener::None | AdminListener::Later(_) => Ok(None),
        }
    }
}

/// The address of a socket that listens.
pub(super) fn address(listener: &TcpListener) -> Result<SocketAddr, AppError> {
    listener.local_addr().map_err(AppError::Inherit)
}

fn adopt(socket: std::net::TcpListener, name: &str, unused: &Address) -> Result<TcpListener, AppError> {
    socket.set_nonblocking(true).map_err(AppError::Inherit)?;
    let socket = TcpListener::from_std(socket).map_err(AppError::Inherit)?;
    let address = address(&socket)?;
    info!("the {name} listener is an inherited socket, {address}; the address {unused} is not used");
    Ok(socket)
}

async fn bind(address: SocketAddr, taken: PortTaken) -> io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && taken == PortTaken::TakeAnother => {
            TcpListener::bind(SocketAddr::new(address.ip(), 0)).await
        }
        bound => bound,
    }
}

/// Binds an address once the process that has it is gone.
pub(super) async fn bind_later(address: SocketAddr) -> TcpListener {
    loop {
        tokio::time::sleep(TRY_EVERY).await;
        if let Ok(listener) = TcpListener::bind(address).await {
            return listener;
        }
    }
}
