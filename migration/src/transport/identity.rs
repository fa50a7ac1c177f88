//! Certificates, and what TLS makes of them: version 1.3 alone, AES-GCM first, both sides show theirs.

use std::fmt;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::TransportError;

/// This host's certificate and key, and the authority that it trusts. The same is used to call and to be called.
#[derive(Clone)]
pub struct Identity {
    pub(super) client: Arc<ClientConfig>,
    pub(super) server: Arc<ServerConfig>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity")
    }
}

/// What protects a connection.
#[derive(Debug, Clone)]
pub enum Security {
    /// TLS with certificates of both sides.
    Tls(Identity),
    /// Nothing: everybody on the way reads and changes the guest's memory, and anybody may send a guest. Only on explicit demand.
    Plain,
}

fn unusable(what: &'static str, reason: impl fmt::Display) -> TransportError {
    TransportError::Identity {
        what,
        reason: reason.to_string(),
    }
}

fn certificates(
    what: &'static str,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, TransportError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| unusable(what, error))?;
    if found.is_empty() {
        return Err(unusable(
            what,
            "there is none; expected `-----BEGIN CERTIFICATE-----`",
        ));
    }
    Ok(found)
}

/// AES-GCM is four times as fast as ChaCha20-Poly1305 where the CPU has instructions for it; both sides do.
fn provider() -> Arc<CryptoProvider> {
    use ring::cipher_suite::{
        TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
    };
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            TLS13_AES_256_GCM_SHA384,
            TLS13_AES_128_GCM_SHA256,
            TLS13_CHACHA20_POLY1305_SHA256,
        ],
        ..ring::default_provider()
    })
}

impl Identity {
    /// From PEM texts: this host's certificate (with intermediate ones), its private key, and the authority whose certificates the other side may show.
    ///
    /// # Errors
    /// [`TransportError::Identity`] names the text that is of no use.
    pub fn from_pem(
        certificate: &[u8],
        key: &[u8],
        authority: &[u8],
    ) -> Result<Self, TransportError> {
        let chain = certificates("this host's certificate", certificate)?;
        let key = || PrivateKeyDer::from_pem_slice(key);
        let bad_key = |error| unusable("this host's private key", error);
        let mut roots = RootCertStore::empty();
        for root in certificates("the authority's certificate", authority)? {
            roots
                .add(root)
                .map_err(|error| unusable("the authority's certificate", error))?;
        }
        let (roots, provider) = (Arc::new(roots), provider());
        let tls = |error: rustls::Error| unusable("this host's certificate and key", error);
        let servers = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|error| unusable("the authority's certificate", error))?;
        let client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(tls)?
            .with_webpki_verifier(servers)
            .with_client_auth_cert(chain.clone(), key().map_err(bad_key)?)
            .map_err(tls)?;
        let clients = WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
            .build()
            .map_err(|error| unusable("the authority's certificate", error))?;
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(tls)?
            .with_client_cert_verifier(clients)
            .with_single_cert(chain, key().map_err(bad_key)?)
            .map_err(tls)?;
        // Nobody resumes a session; and what arrives is then always somebody's message.
        server.send_tls13_tickets = 0;
        Ok(Self {
            client: Arc::new(client),
            server: Arc::new(server),
        })
    }
}

/// The name that the other side's certificate must be for: a host name or an address.
pub(super) fn server_name(name: &str) -> Result<ServerName<'static>, TransportError> {
    ServerName::try_from(name.to_owned()).map_err(|_| {
        unusable(
            "the other host's name",
            format!("`{name}` is neither a name nor an address"),
        )
    })
}
