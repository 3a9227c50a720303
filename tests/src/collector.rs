//! A collector of traces, as operators point OTEL_EXPORTER_OTLP_ENDPOINT at.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::resource::v1::Resource;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;

/// Of which service, and its name.
pub type Span = (String, String);

/// Keeps the names of all spans that it receives, on a free port of this machine.
pub struct Collector {
    url: String,
    spans: Spans,
    server: JoinHandle<()>,
}

#[derive(Clone, Default)]
struct Spans(Arc<Mutex<BTreeSet<Span>>>);

impl Collector {
    /// Listens.
    pub async fn start() -> Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let spans = Spans::default();
        let server = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(spans.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let server = tokio::spawn(async { drop(server.await) });
        Ok(Self { url, spans, server })
    }

    /// Its endpoint.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What has come so far.
    pub fn spans(&self) -> BTreeSet<Span> {
        self.spans.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.server.abort();
    }
}

#[tonic::async_trait]
impl TraceService for Spans {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let mut spans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for of_process in request.into_inner().resource_spans {
            let service = of_process.resource.as_ref().map(service_name).unwrap_or_default();
            let names = of_process.scope_spans.into_iter().flat_map(|scope| scope.spans).map(|span| span.name);
            spans.extend(names.map(|name| (service.clone(), name)));
        }
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

fn service_name(resource: &Resource) -> String {
    let attribute = resource.attributes.iter().find(|attribute| attribute.key == "service.name");
    match attribute.and_then(|attribute| attribute.value.as_ref()).and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(name)) => name.clone(),
        _ => String::new(),
    }
}
