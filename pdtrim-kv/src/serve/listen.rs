//! The port of a server: TLS, the token, and the count of bytes.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use pdtrim_core::hash::sha256;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{Sender, channel};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::Connected;

use super::error::{ServeError, ServeResult};
use super::http::error_response;
use super::metrics::{Metrics, SocketCounters};

/// How long a client may take to agree on TLS.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Connections that have agreed and were not taken up yet.
const ACCEPTED_AHEAD: usize = 64;
/// A stream's and a connection's bytes under way.
const WINDOW: u32 = 8 << 20;
/// How long requests that run may go on after a server was told to stop.
const GRACE: Duration = Duration::from_secs(10);

/// A secret that a client shows with each request.
#[derive(Clone)]
pub struct Token {
    header: MetadataValue<Ascii>,
    sha256: String,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Token {
    /// The token in a file, without the white space around it.
    ///
    /// # Errors
    ///
    /// [`ServeError::File`] if it cannot be read, is empty, or is not of visible ASCII characters.
    pub fn read(path: &Path) -> ServeResult<Self> {
        let text = pdtrim_core::read_text(path, pdtrim_core::limits::CONFIG)?;
        Self::new(text.trim()).ok_or_else(|| ServeError::File {
            path: path.to_owned(),
            reason: "expected a token of visible ASCII characters".to_owned(),
        })
    }

    /// `None` for one that is empty or not of visible ASCII characters.
    pub fn new(token: &str) -> Option<Self> {
        let visible = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
        let bearer = visible.then(|| format!("Bearer {token}"))?;
        Some(Self {
            header: bearer.parse().ok()?,
            sha256: sha256(bearer.as_bytes()),
        })
    }

    pub(super) fn bearer(&self) -> MetadataValue<Ascii> {
        self.header.clone()
    }

    /// Whether a request shows it. Hashes are compared: how long that takes says nothing of the token.
    fn is_shown(&self, headers: &HeaderMap) -> bool {
        let shown = headers.get(header::AUTHORIZATION);
        shown.is_some_and(|shown| sha256(shown.as_bytes()) == self.sha256)
    }
}

/// Files of a server's TLS identity, in PEM.
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
#[derive(Clone, Debug, Default)]
pub struct Security {
    /// Without it, connections are readable on their way.
    pub tls: Option<TlsFiles>,
    /// Without it, anyone who reaches the port is let in.
    pub token: Option<Token>,
}

/// A bound port.
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
    ///
    /// # Errors
    ///
    /// [`ServeError::File`] for TLS files that cannot be used; [`ServeError::Server`].
    pub async fn serve(
        self,
        router: Router,
        metrics: &Metrics,
        shutdown: impl Future<Output = ()>,
    ) -> ServeResult<()> {
        let tls = self.security.tls.as_ref().map(TlsFiles::acceptor);
        let tls = tls.transpose()?;
        let router = match self.security.token {
            Some(token) => router.layer(from_fn_with_state(token, check_token)),
            None => router,
        };
        let (sender, connections) = channel(ACCEPTED_AHEAD);
        let counters = metrics.socket();
        let accepting = tokio::spawn(accept(self.socket, tls, counters, sender));
        let (stopping, stopped) = tokio::sync::oneshot::channel();
        let told = async {
            shutdown.await;
            accepting.abort();
            let _ = stopping.send(());
        };
        let serving = Server::builder()
            .accept_http1(true)
            .tcp_nodelay(true)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(4 * WINDOW)
            .http2_keepalive_interval(Some(Duration::from_secs(20)))
            .http2_keepalive_timeout(Some(Duration::from_secs(10)))
            .add_routes(Routes::from(router))
            .serve_with_incoming_shutdown(ReceiverStream::new(connections), told);
        let late = async {
            // Pending for ever if nobody says stop.
            match stopped.await {
                Ok(()) => tokio::time::sleep(GRACE).await,
                Err(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            served = serving => served.map_err(|source| ServeError::Server { source: source.into() }),
            () = late => Ok(()),
        }
    }
}

/// Lets clients in; one that is slow to agree on TLS holds up nobody else.
async fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    counters: SocketCounters,
    connections: Sender<io::Result<Connection>>,
) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Too many open files, say: some will be closed.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        // Answers wait for no acknowledgement of what came before.
        let _ = stream.set_nodelay(true);
        let (connections, tls, counters) = (connections.clone(), tls.clone(), counters.clone());
        tokio::spawn(async move {
            let stream = Counted { stream, counters };
            let connection = match tls {
                None => Connection::Plain(stream),
                Some(tls) => match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
                    Ok(Ok(stream)) => Connection::Tls(Box::new(stream)),
                    _ => return,
                },
            };
            // Nobody takes it if the server has ended.
            let _ = connections.send(Ok(connection)).await;
        });
    }
}

/// Refuses requests without the token. Whether a server is up is no secret.
async fn check_token(State(token): State<Token>, request: Request, next: Next) -> Response {
    if request.uri().path() == "/health" || token.is_shown(request.headers()) {
        return next.run(request).await;
    }
    let kind = request.headers().get(header::CONTENT_TYPE);
    if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
        return Status::from(ServeError::Token).into_http::<axum::body::Body>();
    }
    error_response(&ServeError::Token).into_response()
}

/// Whether a name or address is this machine's own.
pub(super) fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let address = bare.parse::<IpAddr>();
    bare.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

/// A stream whose bytes are counted.
#[derive(Debug)]
struct Counted {
    stream: TcpStream,
    counters: SocketCounters,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let bytes = buffer.filled().len() - before;
        self.counters.received.inc_by(bytes as u64);
        read
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        if let Poll::Ready(Ok(bytes)) = written {
            self.counters.sent.inc_by(bytes as u64);
        }
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        if let Poll::Ready(Ok(bytes)) = written {
            self.counters.sent.inc_by(bytes as u64);
        }
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// A client's connection.
enum Connection {
    Plain(Counted),
    Tls(Box<tokio_rustls::server::TlsStream<Counted>>),
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl Connection {
    fn stream(self: Pin<&mut Self>) -> Pin<&mut dyn ReadWrite> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream),
            Self::Tls(stream) => Pin::new(&mut **stream),
        }
    }
}

trait ReadWrite: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> ReadWrite for T {}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream().poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(context)
    }
}
