//! A connection: HTTP around the S3 service, and the faults of the wire.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use http::{Request, Response, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use s3s::service::S3Service;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::faults::{Fault, Faults};

/// What was sent must have left before the connection ends.
const FLUSH: Duration = Duration::from_millis(20);

type Body = StreamBody<BoxStream<'static, io::Result<Frame<Bytes>>>>;

/// Serves a connection to its end.
pub(crate) async fn serve(stream: TcpStream, service: S3Service, faults: Arc<Faults>) {
    let reset = Arc::new(AtomicBool::new(false));
    let socket = Socket { stream, reset: Arc::clone(&reset) };
    let answer = service_fn(|request| answer(request, service.clone(), Arc::clone(&faults), Arc::clone(&reset)));
    // An injected fault ends the connection with an error; a client that leaves does so too.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), answer).await;
}

async fn answer(
    request: Request<Incoming>,
    service: S3Service,
    faults: Arc<Faults>,
    reset: Arc<AtomicBool>,
) -> io::Result<Response<Body>> {
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str()).to_owned();
    let range = request.headers().get(header::RANGE).and_then(|range| range.to_str().ok()).map(str::to_owned);
    let fault = faults.meet(request.method(), &target, range);
    match &fault {
        Some(Fault::Status(status, code)) => return Ok(error(*status, code)),
        Some(Fault::Refuse) => {
            reset.store(true, Ordering::Relaxed);
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Some(Fault::Delay(late)) => tokio::time::sleep(*late).await,
        _ => {}
    }
    let response = service.call(request.map(s3s::Body::from)).await;
    let response = response.map_err(|error| io::Error::other(format!("{error:?}")))?;
    let (head, body) = response.into_parts();
    let body = BodyExt::collect(body).await.map_err(|error| io::Error::other(error.to_string()))?.to_bytes();
    Ok(Response::from_parts(head, StreamBody::new(spoil(body, fault, reset))))
}

/// A body as a fault leaves it.
fn spoil(body: Bytes, fault: Option<Fault>, reset: Arc<AtomicBool>) -> BoxStream<'static, io::Result<Frame<Bytes>>> {
    let frame = |bytes| Ok(Frame::data(bytes));
    match fault {
        Some(Fault::Truncate { after }) => cut(body, after, None),
        Some(Fault::Reset { after }) => cut(body, after, Some(reset)),
        Some(Fault::Trickle { piece, pause }) => stream::unfold(body, move |mut rest| async move {
            if rest.is_empty() {
                return None;
            }
            let piece = rest.split_to(piece.clamp(1, rest.len()));
            tokio::time::sleep(pause).await;
            Some((Ok(Frame::data(piece)), rest))
        })
        .boxed(),
        Some(Fault::Corrupt { at }) if at < body.len() => {
            let mut spoiled = body.to_vec();
            spoiled[at] ^= 0x55;
            stream::iter([frame(Bytes::from(spoiled))]).boxed()
        }
        _ => stream::iter((!body.is_empty()).then(|| frame(body))).boxed(),
    }
}

/// The first bytes of a body, and then the end of the connection.
fn cut(body: Bytes, after: usize, reset: Option<Arc<AtomicBool>>) -> BoxStream<'static, io::Result<Frame<Bytes>>> {
    let sent = body.slice(..after.min(body.len()));
    let broken = async move {
        tokio::time::sleep(FLUSH).await;
        if let Some(reset) = reset {
            reset.store(true, Ordering::Relaxed);
        }
        Err(io::ErrorKind::ConnectionAborted.into())
    };
    stream::iter([Ok(Frame::data(sent))]).chain(stream::once(broken)).boxed()
}

fn error(status: u16, code: &str) -> Response<Body> {
    let xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>injected</Message></Error>"
    );
    let body = StreamBody::new(stream::iter([Ok(Frame::data(Bytes::from(xml.clone())))]).boxed());
    Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "application/xml")
        .header(header::CONTENT_LENGTH, xml.len())
        .body(body)
        .expect("status and headers are valid")
}

/// A stream that can end in a reset.
struct Socket {
    stream: TcpStream,
    reset: Arc<AtomicBool>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.reset.load(Ordering::Relaxed) {
            // With no time to linger, closing sends RST instead of FIN.
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
