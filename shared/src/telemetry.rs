//! Logs on stderr, and traces to an OpenTelemetry collector when one is named.
//!
//! `CAPPA_LOG` chooses what is logged, in the syntax of `tracing_subscriber::EnvFilter`. The collector's own variables
//! (`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_EXPORTER_OTLP_HEADERS`, …) say where traces go.

use std::io::IsTerminal as _;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use thiserror::Error;
use tracing::Subscriber;
use tracing_subscriber::filter::{EnvFilter, ParseError};
use tracing_subscriber::layer::{Layer, SubscriberExt as _};
use tracing_subscriber::registry::Registry;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};

/// Our own lines, and only the worries of the libraries below.
const DEFAULT_FILTER: &str =
    "info,h2=warn,hyper=warn,hyper_util=warn,tower=warn,slatedb=warn,object_store=warn,opentelemetry=warn";

/// At the end of the program traces get so long to leave.
const FLUSH: Duration = Duration::from_secs(3);

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for collectors of logs.
    Json,
}

impl std::str::FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(format!("`{text}` is no log format; use text or json")),
        }
    }
}

/// What a program says about itself, and where.
#[derive(Debug, Clone)]
pub struct Telemetry {
    /// The program, e.g. `cappa-worker`.
    pub service: &'static str,
    /// Which of its processes, e.g. the worker id.
    pub instance: String,
    /// How log lines look.
    pub format: LogFormat,
    /// What is logged; `None`: what is worth a line in production.
    pub filter: Option<String>,
    /// The OTLP collector (gRPC) that gets traces; `None`: nobody.
    pub otlp_endpoint: Option<String>,
}

/// Why telemetry could not be set up.
#[derive(Debug, Error)]
pub enum TelemetryError {
    /// `CAPPA_LOG` is no filter.
    #[error("CAPPA_LOG is not a log filter; write for example `info,cappa_worker=debug`")]
    Filter(#[from] ParseError),
    /// The collector's settings are wrong.
    #[error("no exporter of traces can be made; check OTEL_EXPORTER_OTLP_ENDPOINT")]
    Exporter(#[from] ExporterBuildError),
    /// Logging was set up before.
    #[error("logging is set up already")]
    Twice(#[from] TryInitError),
}

/// More that is done with every log line, e.g. sending it to the coordinator.
pub type ExtraLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// Sends what traces are left when it is dropped; keep it until the end of `main`.
#[derive(Debug)]
#[must_use = "traces are sent when it is dropped, at the end of the program"]
pub struct Guard(Option<SdkTracerProvider>);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(provider) = &self.0 {
            // A collector that is away must not keep the program, and there is nobody left to tell.
            let _ = provider.shutdown_with_timeout(FLUSH);
        }
    }
}

impl Telemetry {
    /// With what the environment says.
    pub fn from_env(service: &'static str, instance: impl Into<String>, format: LogFormat) -> Self {
        let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self {
            service,
            instance: instance.into(),
            format,
            filter: set("CAPPA_LOG"),
            otlp_endpoint: set("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").or_else(|| set("OTEL_EXPORTER_OTLP_ENDPOINT")),
        }
    }

    /// Sets logging and tracing up for the whole program. With a collector this must run inside a tokio runtime.
    ///
    /// # Errors
    /// For settings that make no sense, and when it was done before.
    pub fn init(&self, extra: Option<ExtraLayer>) -> Result<Guard, TelemetryError> {
        let (subscriber, guard) = self.subscriber(extra)?;
        subscriber.try_init()?;
        Ok(guard)
    }

    fn subscriber(&self, extra: Option<ExtraLayer>) -> Result<(impl Subscriber + Send + Sync, Guard), TelemetryError> {
        let filter = EnvFilter::try_new(self.filter.as_deref().unwrap_or(DEFAULT_FILTER))?;
        let provider = self.otlp_endpoint.as_deref().map(|endpoint| self.tracer(endpoint)).transpose()?;
        let traces =
            provider.as_ref().map(|provider| tracing_opentelemetry::layer().with_tracer(provider.tracer(self.service)));
        let lines =
            tracing_subscriber::fmt::layer().with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr);
        let lines = match self.format {
            LogFormat::Text => lines.boxed(),
            LogFormat::Json => lines.json().flatten_event(true).boxed(),
        };
        let subscriber = tracing_subscriber::registry().with(extra).with(lines).with(traces).with(filter);
        Ok((subscriber, Guard(provider)))
    }

    fn tracer(&self, endpoint: &str) -> Result<SdkTracerProvider, TelemetryError> {
        let exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint).with_timeout(FLUSH).build()?;
        let resource = Resource::builder()
            .with_service_name(self.service)
            .with_attribute(KeyValue::new("service.instance.id", self.instance.clone()))
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
        Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
    use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
    use tokio_stream::wrappers::TcpListenerStream;
    use tracing_subscriber::layer::Context;

    use super::*;

    fn telemetry(otlp_endpoint: Option<String>) -> Telemetry {
        Telemetry {
            service: "cappa-test",
            instance: "test-0".into(),
            format: LogFormat::Json,
            filter: None,
            otlp_endpoint,
        }
    }

    struct Lines(Arc<Mutex<Vec<String>>>);

    impl<S: Subscriber> Layer<S> for Lines {
        fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
            self.0.lock().unwrap().push(event.metadata().level().to_string());
        }
    }

    #[test]
    fn an_extra_layer_gets_the_lines_that_are_logged() {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (subscriber, _guard) = telemetry(None).subscriber(Some(Box::new(Lines(lines.clone())))).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!("shown");
            tracing::debug!("not shown");
            tracing::warn!("shown");
        });
        assert_eq!(*lines.lock().unwrap(), ["INFO", "WARN"]);
    }

    #[test]
    fn a_filter_that_is_none_is_refused() {
        let wrong = Telemetry { filter: Some("cappa=loud".into()), ..telemetry(None) };
        assert!(matches!(wrong.subscriber(None), Err(TelemetryError::Filter(_))));
    }

    struct Collector(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

    #[tonic::async_trait]
    impl TraceService for Collector {
        async fn export(
            &self,
            request: tonic::Request<ExportTraceServiceRequest>,
        ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
            self.0.lock().unwrap().push(request.into_inner());
            Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_span_reaches_the_collector_at_the_latest_when_the_guard_is_dropped() {
        let requests = Arc::new(Mutex::new(Vec::new()));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let service = TraceServiceServer::new(Collector(requests.clone()));
        let server = tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener));
        let server = tokio::spawn(server);

        let (subscriber, guard) = telemetry(Some(endpoint)).subscriber(None).unwrap();
        tracing::subscriber::with_default(subscriber, || tracing::info_span!("recovery", job = "demo").in_scope(|| {}));
        tokio::task::spawn_blocking(move || drop(guard)).await.unwrap();
        server.abort();

        let spans: Vec<String> = requests
            .lock()
            .unwrap()
            .iter()
            .flat_map(|request| &request.resource_spans)
            .flat_map(|resource| &resource.scope_spans)
            .flat_map(|scope| &scope.spans)
            .map(|span| span.name.clone())
            .collect();
        assert_eq!(spans, ["recovery"]);
    }
}
