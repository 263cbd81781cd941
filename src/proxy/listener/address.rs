//! Where the listener listens, and who may come: addresses and the paths of sockets.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;

/// What the path of a socket has in front.
pub const UNIX: &str = "unix:";

/// Where a listener listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// An address and a port.
    Socket(SocketAddr),
    /// A socket in the file system.
    Unix(PathBuf),
}

/// The other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerAddress {
    /// An address and a port.
    Socket(SocketAddr),
    /// Somebody on this machine who may open the socket.
    Unix,
}

/// A peer that may say for whom it speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrustedPeer {
    /// Any of these addresses.
    Network(IpNet),
    /// Whoever comes through the socket in the file system.
    Unix,
}

impl Address {
    /// The address and port, unless it is a path.
    pub fn socket(&self) -> Option<SocketAddr> {
        match self {
            Address::Socket(address) => Some(*address),
            Address::Unix(_) => None,
        }
    }

    /// The path, if it is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Address::Socket(_) => None,
            Address::Unix(path) => Some(path),
        }
    }

    /// Says whether nobody outside of this machine can reach it.
    pub fn is_local(&self) -> bool {
        self.socket().is_none_or(|address| address.ip().is_loopback())
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Address {
        Address::Socket(address)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Socket(address) => write!(f, "{address}"),
            Address::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

impl From<SocketAddr> for PeerAddress {
    fn from(address: SocketAddr) -> PeerAddress {
        PeerAddress::Socket(address)
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PeerAddress::Socket(address) => write!(f, "{address}"),
            PeerAddress::Unix => f.write_str("unix"),
        }
    }
}

impl TrustedPeer {
    /// Says whether it is this one.
    pub fn is(&self, address: PeerAddress) -> bool {
        match (self, address) {
            (TrustedPeer::Network(network), PeerAddress::Socket(address)) => {
                network.contains(&address.ip().to_canonical())
            }
            (TrustedPeer::Unix, PeerAddress::Unix) => true,
            (TrustedPeer::Network(_), PeerAddress::Unix) | (TrustedPeer::Unix, PeerAddress::Socket(_)) => false,
        }
    }
}

impl From<IpNet> for TrustedPeer {
    fn from(network: IpNet) -> TrustedPeer {
        TrustedPeer::Network(network)
    }
}

impl fmt::Display for TrustedPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TrustedPeer::Network(network) => write!(f, "{network}"),
            TrustedPeer::Unix => f.write_str("unix"),
        }
    }
}
