//! The port of a server: TLS, the token, and how much of it clients may take.

mod activity;
mod counted;
mod port;
mod token;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderMap, header};
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tonic::Status;

use super::error::{ServeError, ServeResult};
use super::http::error_response;
use super::limits::Limits;
use super::metrics::Metrics;
use port::Port;
pub use token::Token;

/// Files of a server's TLS identity, in PEM.
///
/// ```
/// use pdtrim_kv::serve::{Security, TlsFiles};
///
/// let tls = TlsFiles { certificate: "server.pem".into(), key: "server.key".into() };
/// let security = Security { tls: Some(tls), ..Security::default() };
/// assert!(security.token.is_none());
/// ```
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// Its certificate, and those between it and the root.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

impl TlsFiles {
    fn acceptor(&self) -> ServeResult<TlsAcceptor> {
        let refused = |path: &Path, reason: String| ServeError::File {
            path: path.to_owned(),
            reason,
        };
        let certificates = CertificateDer::pem_file_iter(&self.certificate)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| refused(&self.certificate, error.to_string()))?;
        if certificates.is_empty() {
            let reason = "expected a certificate in PEM, found none".to_owned();
            return Err(refused(&self.certificate, reason));
        }
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .map_err(|error| refused(&self.key, error.to_string()))?;
        let mut config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(certificates, key)
            .map_err(|error| refused(&self.certificate, error.to_string()))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

/// What keeps others out.
///
/// ```
/// use pdtrim_kv::serve::{Listener, Security, ServeError};
///
/// # #[tokio::main]
/// # async fn main() {
/// // An open port is for loopback only.
/// let everywhere = ([0, 0, 0, 0], 0).into();
/// let refused = Listener::bind(everywhere, Security::default()).await.unwrap_err();
/// assert!(matches!(refused, ServeError::Open { .. }));
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Security {
    /// Without it, connections are readable on their way.
    pub tls: Option<TlsFiles>,
    /// Without it, anyone who reaches the port is let in.
    pub token: Option<Token>,
}

/// A bound port.
///
/// ```no_run
/// use pdtrim_kv::serve::{Limits, Listener, Metrics, Router, Security};
///
/// # #[tokio::main]
/// # async fn main() -> pdtrim_kv::serve::ServeResult<()> {
/// let any_port = ([127, 0, 0, 1], 0).into();
/// let listener = Listener::bind(any_port, Security::default()).await?;
/// println!("{}://{}", listener.scheme(), listener.address());
/// let shutdown = async { tokio::signal::ctrl_c().await.unwrap_or_default() };
/// listener.serve(Router::new(), Limits::default(), &Metrics::new(), shutdown).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    security: Security,
}

impl Listener {
    /// Binds `address`; port 0 is any that is free.
    ///
    /// # Errors
    ///
    /// [`ServeError::Open`] for an address beyond loopback without both TLS and a token;
    /// [`ServeError::Address`] if it cannot be bound.
    pub async fn bind(address: SocketAddr, security: Security) -> ServeResult<Self> {
        if !address.ip().is_loopback() {
            let missing = match security {
                Security { tls: None, .. } => Some("TLS certificate"),
                Security { token: None, .. } => Some("token"),
                Security { .. } => None,
            };
            if let Some(missing) = missing {
                let address = address.to_string();
                return Err(ServeError::Open { address, missing });
            }
        }
        let refused = |error: io::Error| ServeError::Address {
            address: address.to_string(),
            reason: error.to_string(),
        };
        let socket = TcpListener::bind(address).await.map_err(refused)?;
        let address = socket.local_addr().map_err(refused)?;
        Ok(Self {
            socket,
            address,
            security,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        if self.security.tls.is_some() {
            "https"
        } else {
            "http"
        }
    }

    /// Serves HTTP/1.1 and HTTP/2 until `shutdown`, then lets requests that run come to their end, for some seconds.
    /// Clients beyond `limits`, and those that keep it waiting, are let go.
    ///
    /// # Errors
    ///
    /// [`ServeError::File`] for TLS files that cannot be used.
    pub async fn serve(
        self,
        router: Router,
        limits: Limits,
        metrics: &Metrics,
        shutdown: impl Future<Output = ()>,
    ) -> ServeResult<()> {
        let tls = self.security.tls.as_ref().map(TlsFiles::acceptor);
        let router = match self.security.token {
            Some(token) => router.layer(from_fn_with_state(token, token::check)),
            None => router,
        };
        let port = Port::new(router, tls.transpose()?, limits, metrics);
        port.serve(self.socket, shutdown).await;
        Ok(())
    }
}

/// An error in the form that the client reads.
fn refusal(asked: &HeaderMap, error: ServeError) -> Response {
    let kind = asked.get(header::CONTENT_TYPE);
    if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
        return Status::from(error).into_http();
    }
    error_response(&error)
}

/// Whether a name or address is this machine's own.
pub(super) fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let address = bare.parse::<IpAddr>();
    bare.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}
