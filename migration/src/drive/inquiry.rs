//! Questions between the hosts: where does a session stand?

use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use crate::protocol::desk::Peer;
use crate::transport::{Connection, Framed, Received, Security, Settings, TransportError};
use crate::wire::{Answer, Inquire, Message, Standing};

/// Asks another host where it stands: at each of `addresses` ([`crate::wire::Offer::inquiries`]) in turn, until one answers. `name` is what the
/// certificates are for; without one it is the host of each address.
///
/// # Errors
/// What was wrong with the last address, when none answers.
pub fn inquire(
    addresses: &str,
    name: Option<&str>,
    security: &Security,
    settings: &Settings,
    question: Inquire,
) -> Result<Peer, TransportError> {
    let mut failed = unknown(std::io::ErrorKind::InvalidInput.into());
    for address in addresses.split(',').map(str::trim) {
        let name = name.unwrap_or_else(|| host_of(address));
        match ask(address, name, security, settings, question) {
            Ok(peer) => return Ok(peer),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

fn unknown(source: std::io::Error) -> TransportError {
    TransportError::Connect {
        address: (Ipv4Addr::UNSPECIFIED, 0).into(),
        source,
    }
}

/// The host of `host:port`, without the brackets of IPv6.
fn host_of(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

fn ask(
    address: &str,
    name: &str,
    security: &Security,
    settings: &Settings,
    question: Inquire,
) -> Result<Peer, TransportError> {
    let found: Vec<SocketAddr> = address.to_socket_addrs().map_err(unknown)?.collect();
    let address = *found
        .first()
        .ok_or_else(|| unknown(std::io::ErrorKind::AddrNotAvailable.into()))?;
    let mut framed = Framed::new(Connection::connect(address, name, security, settings)?);
    framed.say(&Message::Inquire(question))?;
    match framed.hear(settings.stall)? {
        Some(Received::Message(Message::Answer(Answer { standing, boot }))) => {
            Ok(Peer { standing, boot })
        }
        _ => Err(TransportError::Closed { peer: address }),
    }
}

/// Asks for a session that goes on meanwhile, one question at a time.
pub(super) struct Asker {
    pub(super) security: Security,
    pub(super) settings: Settings,
    /// What the certificates are for, where they are not for the addresses.
    pub(super) name: Option<String>,
    asking: Arc<AtomicBool>,
}

impl Asker {
    pub(super) fn new(security: &Security, settings: Settings, name: Option<String>) -> Self {
        Self {
            security: security.clone(),
            settings,
            name,
            asking: Arc::default(),
        }
    }

    /// Asks, and hands in the answer. Without one it is asked again after a while, as it is when the question before was not answered yet.
    pub(super) fn ask(
        &self,
        addresses: &str,
        question: Inquire,
        tell: impl FnOnce(Peer) + Send + 'static,
    ) {
        if self.asking.swap(true, Ordering::SeqCst) {
            return;
        }
        let (addresses, name) = (addresses.to_owned(), self.name.clone());
        let (security, settings) = (self.security.clone(), self.settings);
        let asking = self.asking.clone();
        // Its waits have their ends, and the session does not wait for it.
        let asked = std::thread::Builder::new()
            .name("inquiry".to_owned())
            .spawn(move || {
                let peer = inquire(&addresses, name.as_deref(), &security, &settings, question);
                asking.store(false, Ordering::SeqCst);
                let _ = peer.map(tell);
            });
        if asked.is_err() {
            self.asking.store(false, Ordering::SeqCst);
        }
    }
}

/// A question that came, on its way to the thread that owns the session.
pub(super) struct Asked {
    pub(super) peer: Peer,
    answer: Sender<Standing>,
}

impl Asked {
    /// With where the answer will be.
    pub(super) fn new(question: &Inquire) -> (Self, Receiver<Standing>) {
        let (answer, standing) = channel();
        let peer = Peer {
            standing: question.standing,
            boot: question.boot,
        };
        (Self { peer, answer }, standing)
    }

    /// Once the session has taken in what the question says.
    pub(super) fn answer(self, standing: Standing) {
        // Whoever asked may be gone.
        let _ = self.answer.send(standing);
    }
}

/// Waits for a session's answer, unless the session ends before.
pub(super) fn await_answer(
    answer: &Receiver<Standing>,
    attention: Duration,
    is_over: impl Fn() -> bool,
) -> Option<Standing> {
    use std::sync::mpsc::RecvTimeoutError::Timeout;
    loop {
        match answer.recv_timeout(attention) {
            Ok(standing) => return Some(standing),
            Err(Timeout) if !is_over() => {}
            Err(_) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_for_the_host_of_an_address() {
        for (address, host) in [
            ("10.0.0.1:7420", "10.0.0.1"),
            ("host-a.lan:1", "host-a.lan"),
            ("[fe80::1]:7420", "fe80::1"),
        ] {
            assert_eq!(host_of(address), host);
        }
    }
}
