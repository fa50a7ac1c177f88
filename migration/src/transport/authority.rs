//! Makes certificates: an authority, and what it issues. For tests, and for two hosts that have no authority of their own.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// A certificate could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make a certificate")]
pub struct AuthorityError(#[from] rcgen::Error);

/// Issues certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

/// A host's certificate and its private key, both as PEM.
#[derive(Clone)]
pub struct Issued {
    /// The certificate, which everybody may see.
    pub certificate: String,
    /// The private key, which nobody but the host may see.
    pub key: String,
}

/// From when to when.
#[derive(Debug, Clone, Copy)]
pub struct Validity {
    /// First instant.
    pub from: SystemTime,
    /// Last instant.
    pub until: SystemTime,
}

impl Validity {
    /// From an hour ago, because clocks differ, for so long from now on.
    #[must_use]
    pub fn starting(now: SystemTime, length: Duration) -> Self {
        Self {
            from: now - Duration::from_secs(3600),
            until: now + length,
        }
    }
}

fn params(names: Vec<String>, validity: Validity) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    params.not_before = validity.from.into();
    params.not_after = validity.until.into();
    Ok(params)
}

fn authority_params(name: &str, validity: Validity) -> Result<CertificateParams, rcgen::Error> {
    let mut params = params(Vec::new(), validity)?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    Ok(params)
}

impl Authority {
    /// A new authority with a key of its own.
    ///
    /// # Errors
    /// When no key can be drawn.
    pub fn new(name: &str, validity: Validity) -> Result<Self, AuthorityError> {
        let params = authority_params(name, validity)?;
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self {
            issuer: Issuer::new(params, key),
            certificate,
        })
    }

    /// The authority that [`Authority::new`] made with this name, from its certificate and its private key as PEM.
    ///
    /// # Errors
    /// When the key cannot be read.
    pub fn again(name: &str, certificate: &str, key: &str) -> Result<Self, AuthorityError> {
        // What it issues bears its name and the number of its key; when it is valid stands in its own certificate alone.
        let params = authority_params(name, Validity::starting(SystemTime::now(), Duration::ZERO))?;
        Ok(Self {
            issuer: Issuer::new(params, KeyPair::from_pem(key)?),
            certificate: certificate.to_owned(),
        })
    }

    /// Its private key as PEM, which nobody but the authority may see.
    #[must_use]
    pub fn key(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// Its own certificate as PEM: what a host needs to know whom to trust.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// A certificate for a host that is called by these names or addresses, for both ends of a connection.
    ///
    /// # Errors
    /// When a name is none.
    pub fn issue(&self, names: &[&str], validity: Validity) -> Result<Issued, AuthorityError> {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = params(names.clone(), validity)?;
        let called = names.first().map_or("host", String::as_str);
        params.distinguished_name.push(DnType::CommonName, called);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate()?;
        Ok(Issued {
            certificate: params.signed_by(&key, &self.issuer)?.pem(),
            key: key.serialize_pem(),
        })
    }
}
