//! Where other hosts call.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use super::connection::readable;
use super::{Breaker, Connection, Security, Settings, TransportError};

/// Accepts connections.
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    security: Security,
    settings: Settings,
}

/// Somebody who called and was not yet asked for a certificate.
pub struct Caller {
    socket: std::net::TcpStream,
    /// From where.
    pub peer: SocketAddr,
    security: Security,
    settings: Settings,
}

impl Listener {
    /// Listens at an address; port 0 takes a free one.
    ///
    /// # Errors
    /// When the address is not this host's or is taken.
    pub fn bind(
        address: SocketAddr,
        security: Security,
        settings: Settings,
    ) -> Result<Self, TransportError> {
        let failed = |source| TransportError::Listen { address, source };
        let socket = TcpListener::bind(address).map_err(failed)?;
        Self::over(socket, security, settings)
    }

    /// Listens where a socket does that somebody else has bound.
    ///
    /// # Errors
    /// When it is no listening socket any more.
    pub fn over(
        socket: TcpListener,
        security: Security,
        settings: Settings,
    ) -> Result<Self, TransportError> {
        let nowhere = (std::net::Ipv4Addr::UNSPECIFIED, 0).into();
        let address = socket.local_addr();
        let address = address.map_err(|source| TransportError::Listen {
            address: nowhere,
            source,
        })?;
        let failed = |source| TransportError::Listen { address, source };
        // Whoever called and went away again before it was accepted must not make this side wait.
        socket.set_nonblocking(true).map_err(failed)?;
        Ok(Self {
            socket,
            address,
            security,
            settings,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next who calls within `limit`. The handshake is the caller's thread's matter ([`Caller::greet`]): a slow one keeps nobody else out.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn accept(&self, limit: Duration) -> Result<Option<Caller>, TransportError> {
        let failed = |source| TransportError::Listen {
            address: self.address,
            source,
        };
        if !readable(&self.socket, limit).map_err(failed)? {
            return Ok(None);
        }
        match self.socket.accept() {
            Ok((socket, peer)) => {
                socket.set_nonblocking(false).map_err(failed)?;
                Ok(Some(Caller {
                    socket,
                    peer,
                    security: self.security.clone(),
                    settings: self.settings,
                }))
            }
            Err(error) if gone_again(&error) => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }
}

fn gone_again(error: &std::io::Error) -> bool {
    use std::io::ErrorKind as E;
    matches!(
        error.kind(),
        E::WouldBlock | E::ConnectionAborted | E::ConnectionReset | E::Interrupted
    )
}

impl Caller {
    /// What ends the call from another thread, during the handshake too.
    ///
    /// # Errors
    /// When the process has too many files open.
    pub fn breaker(&self) -> Result<Breaker, TransportError> {
        Breaker::of(&self.socket, self.peer)
    }

    /// Asks for the certificate, and shows this host's.
    ///
    /// # Errors
    /// When either side refuses the other, or it takes too long.
    pub fn greet(self) -> Result<Connection, TransportError> {
        Connection::accept(self.socket, self.peer, &self.security, &self.settings)
    }
}
