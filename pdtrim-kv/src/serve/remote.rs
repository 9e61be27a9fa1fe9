//! Prefill, as decode asks for it.

use std::sync::Arc;
use std::time::Duration;

use burn::tensor::{Tensor, TensorData};
use pdtrim_core::cache::{BlockCache, KvCache};
use pdtrim_core::pipeline::{Handover, SendAll};
use pdtrim_core::{BlockId, Bytes};
use prost::Message as _;
use tokio::task::JoinHandle;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status};

use super::error::{ServeError, ServeResult, with_sources};
use super::limits::Due;
use super::listen::{Token, is_loopback};
use super::metrics::Metrics;
use super::proto::RunRequest;
use super::proto::prefill_client::PrefillClient;
use super::served::{BlockOnWire, Served};
use super::wire::{self, Arrived, Assembler};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(10);
/// What may be under way for one answer before decode has read it.
const WINDOW: u32 = 8 << 20;
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(200);

/// Where prefill is, and how to get in.
///
/// ```
/// use pdtrim_kv::serve::{PrefillAddress, RemotePrefill, ServeError};
///
/// // Beyond loopback nothing goes without TLS and a token.
/// let address = PrefillAddress { uri: "http://192.0.2.1:50051".to_owned(), ca: None, token: None };
/// let refused = RemotePrefill::new(address, 3).unwrap_err();
/// assert!(matches!(refused, ServeError::Open { .. }));
/// ```
#[derive(Clone, Debug)]
pub struct PrefillAddress {
    /// `http://HOST:PORT` on loopback, `https://HOST:PORT` elsewhere.
    pub uri: String,
    /// The certificate (PEM) that prefill's is signed with, or is.
    pub ca: Option<Vec<u8>>,
    /// What prefill asks for.
    pub token: Option<Token>,
}

/// Has prompts run by another process.
///
/// ```no_run
/// # use std::sync::Arc;
/// # use pdtrim_core::testing::TinyModel;
/// # use pdtrim_kv::serve::{Limits, Metrics, Served, ServedParts};
/// use pdtrim_kv::serve::{Generator, PrefillAddress, RemotePrefill};
///
/// # #[tokio::main]
/// # async fn main() -> pdtrim_kv::serve::ServeResult<()> {
/// # let parts = ServedParts::dense(Arc::new(TinyModel::default().build()), "sha256:00");
/// # let served = Arc::new(Served::new(parts)?);
/// let address = PrefillAddress { uri: "http://127.0.0.1:50051".to_owned(), ca: None, token: None };
/// let prefill = RemotePrefill::new(address, 3)?;
/// let generator = Generator::decode(served, prefill, Limits::default(), Metrics::new())?;
/// # let _ = generator;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct RemotePrefill {
    uri: String,
    client: PrefillClient<InterceptedService<Channel, Bearer>>,
    tries: usize,
}

impl RemotePrefill {
    /// A client of the prefill process at `address`, which need not be there yet. A prompt whose answer breaks
    /// off, or is damaged, is asked for again, up to `tries` times in all.
    ///
    /// # Errors
    ///
    /// [`ServeError::Address`] for an address that is none; [`ServeError::Open`] for one that is not loopback,
    /// without TLS or a token.
    pub fn new(address: PrefillAddress, tries: usize) -> ServeResult<Self> {
        let uri = address.uri;
        let refused = |reason: String| ServeError::Address {
            address: uri.clone(),
            reason,
        };
        let endpoint = Endpoint::from_shared(uri.clone());
        let endpoint = endpoint.map_err(|error| refused(with_sources(&error)))?;
        let parts = endpoint.uri().clone();
        let (Some(scheme @ ("http" | "https")), Some(host)) = (parts.scheme_str(), parts.host())
        else {
            return Err(refused(
                "expected http://HOST:PORT or https://HOST:PORT".to_owned(),
            ));
        };
        let open = |missing| ServeError::Open {
            address: uri.clone(),
            missing,
        };
        if !is_loopback(host) {
            if scheme == "http" {
                return Err(open("TLS (https)"));
            }
            if address.token.is_none() {
                return Err(open("token"));
            }
        }
        let mut endpoint = endpoint
            .connect_timeout(CONNECT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(10))
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(4 * WINDOW);
        if scheme == "https" {
            let mut tls = ClientTlsConfig::new();
            if let Some(ca) = &address.ca {
                tls = tls.ca_certificate(Certificate::from_pem(ca));
            }
            let secured = endpoint.tls_config(tls);
            endpoint = secured.map_err(|error| refused(with_sources(&error)))?;
        }
        let bearer = Bearer(address.token.as_ref().map(Token::bearer));
        let client = PrefillClient::with_interceptor(endpoint.connect_lazy(), bearer)
            .max_decoding_message_size(wire::CHUNK + wire::FRAME);
        Ok(Self {
            uri,
            client,
            tries: tries.max(1),
        })
    }

    /// Has `prompt` run; returns what decode goes on from, and the bytes of the messages that brought it.
    pub(super) async fn prefill(
        &self,
        served: &Arc<Served>,
        prompt: &[u32],
        due: Due,
        metrics: &Metrics,
    ) -> ServeResult<(Handover, u64)> {
        // A connection that ended since the last prompt shows only when it is used: that counts as no try.
        let (mut tried, mut reconnected) = (1, false);
        loop {
            let mut begun = false;
            let asked = self.try_once(served, prompt, due, metrics, &mut begun);
            let error = match asked.await {
                Err(error) if error.may_be_retried() => error,
                done => return done,
            };
            if begun || reconnected {
                if tried == self.tries {
                    return Err(error);
                }
                tried += 1;
                metrics.retried();
            }
            reconnected |= !begun;
            let pause = tokio::time::sleep(PAUSE);
            let paused = due.within("waiting to ask prefill again", pause).await;
            paused.map_err(|_| error)?;
        }
    }

    /// Sets `begun` as soon as something of the answer is there.
    async fn try_once(
        &self,
        served: &Arc<Served>,
        prompt: &[u32],
        due: Due,
        metrics: &Metrics,
        begun: &mut bool,
    ) -> ServeResult<(Handover, u64)> {
        let request = Request::new(RunRequest {
            identity: Some(served.identity().clone()),
            dtype: served.held().name().to_owned(),
            prompt: prompt.to_vec(),
            deadline_ms: due.left().as_millis().max(1) as u64,
        });
        let mut client = self.client.clone();
        let asked = due.within("asking prefill", client.run(request)).await?;
        let mut parts = asked
            .map_err(|status| self.said(&status, due))?
            .into_inner();
        let blocks = served.on_wire(prompt.len());
        let mut assembler = Assembler::new(
            served.identity().clone(),
            blocks,
            served.sends_last_hidden(),
        );
        let mut decoding = Vec::new();
        let (mut last, mut wire_bytes) = (None, 0);
        loop {
            let part = due
                .within("receiving from prefill", parts.message())
                .await?;
            let part = part.map_err(|status| self.said(&status, due))?;
            let Some(part) = part else {
                return Err(self.broken("the answer ended before it was complete".to_owned(), true));
            };
            *begun = true;
            let bytes = part.encoded_len();
            metrics.crossed(bytes);
            wire_bytes += bytes as u64;
            match assembler.push(part)? {
                Some(Arrived::Block(block, bytes)) => decoding.push(decode(served, block, bytes)),
                Some(Arrived::Last(values)) => last = Some(served.last_hidden(values)?),
                Some(Arrived::End) => break,
                None => {}
            }
        }
        let mut caches = Vec::with_capacity(decoding.len());
        for decoded in decoding {
            let decoded = due.within("decoding keys and values", decoded).await?;
            let stage = "decoding keys and values";
            caches.push(decoded.map_err(|error| ServeError::of_work(&error, stage))??);
        }
        let cache = KvCache::from_blocks(served.model().dims().n_blocks, caches);
        let kv_bytes = Bytes(assembler.kv_bytes());
        let pd = served.pd(&SendAll);
        let handover = pd.received(prompt.len(), cache, last, kv_bytes)?;
        Ok((handover, wire_bytes))
    }

    fn said(&self, status: &Status, due: Due) -> ServeError {
        let retry = match status.code() {
            Code::DeadlineExceeded => return due.error("prefill"),
            Code::ResourceExhausted => {
                return ServeError::PrefillBusy {
                    address: self.uri.clone(),
                    reason: status.message().to_owned(),
                };
            }
            Code::Unavailable
            | Code::DataLoss
            | Code::Internal
            | Code::Unknown
            | Code::Cancelled => true,
            _ => false,
        };
        let reason = match std::error::Error::source(status) {
            Some(source) => format!("{}: {}", status.message(), with_sources(source)),
            None => status.message().to_owned(),
        };
        self.broken(reason, retry)
    }

    fn broken(&self, reason: String, retry: bool) -> ServeError {
        ServeError::Prefill {
            address: self.uri.clone(),
            reason,
            retry,
        }
    }
}

type Decoded = ServeResult<(BlockId, BlockCache)>;

/// Decodes a block beside the arrival of the next.
fn decode(served: &Arc<Served>, block: BlockOnWire, bytes: Vec<u8>) -> JoinHandle<Decoded> {
    let served = Arc::clone(served);
    tokio::task::spawn_blocking(move || {
        let model = served.model();
        let cache = wire::decode(&block, &bytes, model.dtype(), model.device())?;
        Ok((block.id, cache))
    })
}

impl Served {
    /// The hidden state as decode computes with it.
    pub(super) fn last_hidden(&self, values: Vec<f32>) -> ServeResult<Tensor<2>> {
        let (hidden, dtype) = self.hidden();
        if values.len() != hidden {
            return Err(ServeError::Wire {
                field: "last.data",
                expected: format!("{hidden} numbers"),
                found: values.len().to_string(),
            });
        }
        let data = TensorData::new(values, [1, hidden]);
        Ok(Tensor::from_data(data, (self.model().device(), dtype)))
    }
}

/// Puts the token into each request.
#[derive(Clone, Debug)]
struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request
                .metadata_mut()
                .insert("authorization", token.clone());
        }
        Ok(request)
    }
}
