//! Connections, and how many of them.

use std::convert::Infallible;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::{Request, Response};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

use super::super::error::{ServeError, ServeResult};
use super::super::http::{HEALTH, error_text};
use super::super::limits::Limits;
use super::super::metrics::Metrics;
use super::activity::{Activity, Open};
use super::counted::Counted;
use super::refusal;

/// How long requests that run may go on after a server was told to stop.
const GRACE: Duration = Duration::from_secs(10);
/// How long a connection that is ended may take to say so.
const CLOSING: Duration = Duration::from_secs(1);
/// How long accepting rests when the system refuses.
const REST: Duration = Duration::from_millis(50);
/// Longest head of a request, in bytes.
const HEAD: usize = 64 << 10;
/// What clients may have under way of a request's body, and of all bodies of a connection, before it is read.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;

/// What the connections of a server have in common.
pub(super) struct Port {
    router: Router,
    tls: Option<TlsAcceptor>,
    http: Builder<TokioExecutor>,
    limits: Limits,
    metrics: Metrics,
    /// One for each connection, from before it agrees on TLS.
    connections: Arc<Semaphore>,
    /// One for each request, until its answer has left. HTTP/2 has many on a connection.
    requests: Arc<Semaphore>,
}

impl Port {
    pub(super) fn new(
        router: Router,
        tls: Option<TlsAcceptor>,
        limits: Limits,
        metrics: &Metrics,
    ) -> Arc<Self> {
        let open = limits.open();
        Arc::new(Self {
            router,
            tls,
            http: http(limits),
            limits,
            metrics: metrics.clone(),
            connections: Arc::new(Semaphore::new(open)),
            requests: Arc::new(Semaphore::new(open)),
        })
    }

    /// Serves until `shutdown`, and then those that are being served.
    pub(super) async fn serve(
        self: Arc<Self>,
        socket: TcpListener,
        shutdown: impl Future<Output = ()>,
    ) {
        let (stop, stopping) = watch::channel(false);
        tokio::select! {
            () = self.accept(&socket, &stopping) => {}
            () = shutdown => {}
        }
        // New clients are refused by the system from here on.
        drop(socket);
        // Nobody listens if there are no connections.
        let _ = stop.send(true);
        let all = self.connections.acquire_many(self.limits.open() as u32);
        // Those that take longer are cut off.
        let _ = tokio::time::timeout(GRACE, all).await;
    }

    /// Lets clients in; one that is slow to agree on TLS holds up nobody else.
    async fn accept(self: &Arc<Self>, socket: &TcpListener, stopping: &watch::Receiver<bool>) {
        loop {
            let Ok((stream, _)) = socket.accept().await else {
                // Too many open files, say: some will be closed.
                tokio::time::sleep(REST).await;
                continue;
            };
            let Ok(place) = Arc::clone(&self.connections).try_acquire_owned() else {
                self.turn_away(stream);
                continue;
            };
            self.metrics.let_in();
            // Answers wait for no acknowledgement of what came before.
            let _ = stream.set_nodelay(true);
            let connected = Arc::clone(self).connect(stream, stopping.clone(), place);
            tokio::spawn(connected);
        }
    }

    /// Closes a connection that is one too many, and says why where that takes no time.
    fn turn_away(&self, stream: TcpStream) {
        self.metrics.turned_away();
        if self.tls.is_some() {
            return;
        }
        let limit = self.limits.open();
        let body = error_text(&ServeError::Crowded { limit });
        let answer = format!(
            "HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        // The socket is fresh and does not block: this is taken whole, or the client learns it from the end.
        if let Ok(mut stream) = stream.into_std() {
            let _ = stream.write(answer.as_bytes());
        }
    }

    async fn connect(
        self: Arc<Self>,
        stream: TcpStream,
        stopping: watch::Receiver<bool>,
        _place: OwnedSemaphorePermit,
    ) {
        let counters = self.metrics.socket();
        let stream = Counted { stream, counters };
        let Some(tls) = &self.tls else {
            return self.talk(stream, stopping).await;
        };
        let agreed = tokio::time::timeout(self.limits.patience(), tls.accept(stream));
        if let Ok(Ok(stream)) = agreed.await {
            self.talk(stream, stopping).await;
        }
    }

    async fn talk(
        self: &Arc<Self>,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        mut stopping: watch::Receiver<bool>,
    ) {
        let activity = Arc::new(Activity::new());
        let service = service_fn(|request| {
            let (port, open) = (Arc::clone(self), activity.begin());
            async move { Ok::<_, Infallible>(port.answer(request, open).await) }
        });
        let talk = self.http.serve_connection(TokioIo::new(stream), service);
        let mut talk = pin!(talk);
        let stopped = async {
            // An error is the end of whoever would say so.
            let _ = stopping.wait_for(|&stop| stop).await;
        };
        let left = tokio::select! {
            // How a connection ended is its client's concern.
            _ = talk.as_mut() => return,
            () = activity.over(self.limits) => CLOSING,
            () = stopped => GRACE,
        };
        talk.as_mut().graceful_shutdown();
        let _ = tokio::time::timeout(left, talk).await;
    }

    async fn answer(&self, request: Request<Incoming>, open: Open) -> Response<Held> {
        let place = Arc::clone(&self.requests).try_acquire_owned().ok();
        let headers = request.headers();
        let response = if place.is_none() && request.uri().path() != HEALTH {
            self.metrics.ended("busy");
            let limit = self.limits.open();
            refusal(headers, ServeError::Crowded { limit })
        } else {
            let headers = headers.clone();
            let routed = self.router.clone().oneshot(request.map(Body::new));
            match caught(routed).await {
                Ok(Ok(response)) => response,
                Err(error) => refusal(&headers, error),
            }
        };
        response.map(|body| Held {
            body,
            _open: open,
            _place: place,
        })
    }
}

/// HTTP/1.1 and HTTP/2 with bounds on what a client may send before it is answered. Half a head, and nothing after
/// the last request, are waited for no longer than `patience`.
fn http(limits: Limits) -> Builder<TokioExecutor> {
    let mut http = Builder::new(TokioExecutor::new());
    http.http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.patience())
        .max_buf_size(HEAD);
    http.http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.open() as u32)
        .max_header_list_size(HEAD as u32)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10));
    http
}

/// What `work` gives; a panic is an error of this request, not the end of its connection.
async fn caught<T>(work: impl Future<Output = T>) -> ServeResult<T> {
    let mut work = pin!(work);
    let polled = std::future::poll_fn(|context: &mut Context<'_>| {
        let polled = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context)));
        match polled {
            Ok(polled) => polled.map(Ok),
            Err(_) => Poll::Ready(Err(ServeError::Panicked { stage: "answering" })),
        }
    });
    polled.await
}

/// An answer's body, and what its request holds until it has left.
struct Held {
    body: Body,
    _open: Open,
    _place: Option<OwnedSemaphorePermit>,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_the_error_of_its_request() {
        let panics = caught(async {
            tokio::task::yield_now().await;
            assert!(std::hint::black_box(false), "meant to happen");
        });
        let said = panics.await.unwrap_err().to_string();
        assert!(said.contains("answering"), "{said}");
        assert_eq!(caught(async { 7 }).await.unwrap(), 7);
    }
}
