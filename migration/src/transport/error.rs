//! Why bytes do not pass between two hosts, in words for the one who can change it.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustls::{AlertDescription, CertificateError, Error as Tls};

/// Bytes do not pass.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// Nobody answers there.
    #[error("cannot reach {address}; does `chronovisor receive` run there, and is the port open?")]
    Connect {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// This host cannot wait for connections there.
    #[error("cannot accept connections at {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// A wait came to its end.
    #[error("{peer} did not {what} within {limit:?}")]
    Stalled {
        /// Who.
        peer: SocketAddr,
        /// What it should have done.
        what: &'static str,
        /// How long it had.
        limit: Duration,
    },
    /// The other side went away.
    #[error("{peer} closed the connection")]
    Closed {
        /// Who.
        peer: SocketAddr,
    },
    /// The other side's certificate is not accepted here.
    #[error("the certificate of {peer} is refused here: {reason}")]
    TheirCertificate {
        /// Who.
        peer: SocketAddr,
        /// What is wrong with it.
        reason: String,
    },
    /// This side's certificate is not accepted there.
    #[error("{peer} refuses this host's certificate: {reason}")]
    OurCertificate {
        /// Who.
        peer: SocketAddr,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Bytes were changed on their way.
    #[error("bytes from {peer} were damaged or forged on their way")]
    Damaged {
        /// Who sent them.
        peer: SocketAddr,
    },
    /// The other side does not speak TLS 1.3.
    #[error("no TLS 1.3 with {peer}; do both sides use TLS?")]
    Handshake {
        /// Who.
        peer: SocketAddr,
        /// What went wrong.
        source: Tls,
    },
    /// Certificates or keys given to this host are of no use.
    #[error("{what}: {reason}")]
    Identity {
        /// Which of them.
        what: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Something that arrived is no message.
    #[error("{peer} sent what cannot be read")]
    Message {
        /// Who.
        peer: SocketAddr,
        /// What is wrong with it.
        source: crate::wire::MessageError,
    },
    /// The kernel refused.
    #[error("cannot {what} the connection with {peer}")]
    Socket {
        /// What was tried.
        what: &'static str,
        /// With whom.
        peer: SocketAddr,
        /// Why not.
        source: io::Error,
    },
}

impl TransportError {
    /// What TLS says, in plain words.
    pub(super) fn from_tls(peer: SocketAddr, error: Tls) -> Self {
        match error {
            Tls::InvalidCertificate(error) => Self::TheirCertificate {
                peer,
                reason: refused_here(&error),
            },
            Tls::NoCertificatesPresented => Self::TheirCertificate {
                peer,
                reason: "it shows none; both sides need one".to_owned(),
            },
            Tls::AlertReceived(alert) => match refused_there(alert) {
                Some(reason) => Self::OurCertificate { peer, reason },
                None if alert == AlertDescription::BadRecordMac => Self::Damaged { peer },
                None => Self::Handshake {
                    peer,
                    source: error,
                },
            },
            Tls::DecryptError => Self::Damaged { peer },
            source => Self::Handshake { peer, source },
        }
    }
}

fn refused_here(error: &CertificateError) -> String {
    use CertificateError as E;
    match error {
        E::Expired | E::ExpiredContext { .. } => "it has expired; renew it".to_owned(),
        E::NotValidYet | E::NotValidYetContext { .. } => {
            "it is not valid yet; compare the hosts' clocks".to_owned()
        }
        E::UnknownIssuer => {
            "its issuer is unknown here; both sides need certificates of one authority".to_owned()
        }
        E::BadSignature => {
            "it is not signed by the authority of that name that is known here; both sides need certificates of one authority".to_owned()
        }
        E::NotValidForName | E::NotValidForNameContext { .. } => {
            format!("it is for another name: {error}")
        }
        E::InvalidPurpose | E::InvalidPurposeContext { .. } => {
            "it is not made for this end of a connection".to_owned()
        }
        other => other.to_string(),
    }
}

fn refused_there(alert: AlertDescription) -> Option<&'static str> {
    use AlertDescription as A;
    Some(match alert {
        A::CertificateExpired => "it has expired, or is not valid yet by the clock there; renew it",
        A::UnknownCA => {
            "its issuer is unknown there; both sides need certificates of one authority"
        }
        A::DecryptError => {
            "it is not signed by the authority of that name that is known there; both sides need certificates of one authority"
        }
        A::CertificateRequired | A::NoCertificate => "it shows none; both sides need one",
        A::BadCertificate | A::UnsupportedCertificate | A::CertificateUnknown => {
            "it cannot be used there"
        }
        A::CertificateRevoked => "it was revoked",
        A::AccessDenied => "it gives no access there",
        _ => return None,
    })
}
