//! Whom to trust: the certificate authorities that vouch for whoever the gateway connects to.

use std::path::Path;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// Certificate authorities: those of a file, or the system's; none where TLS is not spoken. They are what the file said when it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Authorities(Vec<CertificateDer<'static>>);

impl Authorities {
    /// Reads them, for a connection with TLS or without.
    ///
    /// # Errors
    /// What is wrong with the file; or that the system has none.
    pub fn of(tls: bool, ca_file: Option<&Path>) -> Result<Self, String> {
        if !tls {
            return Ok(Self::default());
        }
        let certificates: Vec<CertificateDer<'static>> = match ca_file {
            Some(file) => CertificateDer::pem_file_iter(file)
                .and_then(Iterator::collect)
                .map_err(|error| format!("{}: {error}", file.display()))?,
            None => rustls_native_certs::load_native_certs().certs,
        };
        let all = Self(certificates);
        if all.roots().is_empty() {
            return Err(match ca_file {
                Some(file) => format!("{}: no certificate in it ({} unreadable)", file.display(), all.0.len()),
                None => {
                    "the system has no certificate authorities; install ca-certificates, or name a ca_file".to_owned()
                }
            });
        }
        Ok(all)
    }

    /// Each of them, as DER.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(AsRef::as_ref)
    }

    /// TLS to whom they vouch for, without a choice of protocols yet.
    ///
    /// # Errors
    /// TLS cannot be had.
    pub fn client_config(&self) -> Result<ClientConfig, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        Ok(builder.with_root_certificates(self.roots()).with_no_client_auth())
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(self.0.iter().cloned());
        roots
    }
}
