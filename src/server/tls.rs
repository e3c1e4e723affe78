//! TLS to clients: the certificate that they are shown, which a reload may replace.

use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use pingora::listeners::tls::TlsSettings;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::config::Tls;

/// A certificate with its key, and when it expires, in seconds since the Unix epoch.
#[derive(Debug)]
pub(super) struct Certificate {
    certified: Arc<CertifiedKey>,
    pub(super) expires: i64,
}

impl Certificate {
    /// Reads a certificate and its key, and holds them against each other. pingora would do it inside its service, and panic.
    ///
    /// # Errors
    /// What is wrong with either.
    pub(super) fn read(tls: &Tls) -> Result<Self, String> {
        let in_file = |file: &Path, error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&tls.cert_file)
            .and_then(Iterator::collect)
            .map_err(|error| in_file(&tls.cert_file, &error))?;
        let leaf = chain.first().ok_or_else(|| in_file(&tls.cert_file, &"no certificate"))?;
        let (_, leaf) = X509Certificate::from_der(leaf).map_err(|error| in_file(&tls.cert_file, &error))?;
        let expires = leaf.validity().not_after.timestamp();
        let key = PrivateKeyDer::from_pem_file(&tls.key_file).map_err(|error| in_file(&tls.key_file, &error))?;
        let certified = CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider())
            .map_err(|error| in_file(&tls.cert_file, &error))?;
        Ok(Self { certified: Arc::new(certified), expires })
    }
}

/// The certificate that is shown now. A connection is shown what is current when it is made, and keeps to that.
#[derive(Debug)]
pub(super) struct Shown(ArcSwap<CertifiedKey>);

impl Shown {
    pub(super) fn new(certificate: &Certificate) -> Arc<Self> {
        Arc::new(Self(ArcSwap::new(Arc::clone(&certificate.certified))))
    }

    pub(super) fn show(&self, certificate: &Certificate) {
        self.0.store(Arc::clone(&certificate.certified));
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

/// What a listener speaks: HTTP/2 and HTTP/1.1, with the certificate that is shown.
///
/// # Errors
/// Never for what stands here.
pub(super) fn settings(shown: Arc<Shown>) -> Result<TlsSettings, String> {
    let mut settings = TlsSettings::intermediate("", "").map_err(|error| error.to_string())?;
    settings.set_cert_resolver(shown);
    settings.enable_h2();
    Ok(settings)
}
