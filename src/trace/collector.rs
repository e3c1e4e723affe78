//! The collector: spans in OpenTelemetry's words (semantic conventions 1.37 for HTTP), sent by its own exporter.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Duration;

use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::connect::HttpConnector;
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::{Span, What};
use crate::api::Operation;
use crate::config;
use crate::tls_roots::Authorities;

/// For a batch, new tries included: what OpenTelemetry's exporters have by default.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// For one try, so that there may be another.
const TRY: Duration = Duration::from_secs(5);

/// For a connection.
const CONNECT: Duration = Duration::from_secs(3);

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Collector {
    exporter: SpanExporter,
    scope: InstrumentationScope,
}

impl Collector {
    /// Nothing is connected yet.
    ///
    /// # Errors
    /// What is wrong with its URL.
    pub(super) fn new(
        collector: &config::traces::Collector,
        authorities: &Authorities,
        service: &str,
    ) -> Result<Self, String> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT));
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(authorities.client_config()?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        // It decodes them.
        let encoded =
            |(name, value): &(String, String)| (name.clone(), utf8_percent_encode(value, NON_ALPHANUMERIC).to_string());
        let headers: HashMap<String, String> = collector.headers.iter().map(encoded).collect();
        let mut exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(HyperClient::new(https, TRY, None))
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(format!("{}{}/v1/traces", collector.origin, collector.base))
            .with_timeout(PATIENCE)
            .with_headers(headers)
            .build()
            .map_err(|error| format!("traces.url: {error}"))?;
        let version = env!("CARGO_PKG_VERSION");
        // With what `OTEL_RESOURCE_ATTRIBUTES` says, and what names the process' SDK.
        let resource = Resource::builder()
            .with_service_name(service.to_owned())
            .with_attribute(KeyValue::new("service.version", version))
            .build();
        exporter.set_resource(&resource);
        let scope = InstrumentationScope::builder("sendly-gateway").with_version(version).build();
        Ok(Self { exporter, scope })
    }

    /// # Errors
    /// Why it did not take them.
    pub(super) async fn take(&self, spans: Vec<Span>) -> Result<(), String> {
        let batch = spans.into_iter().map(|span| self.told(span)).collect();
        // One call at a time may be made, and is: by whoever has the gateway's exporting.
        self.exporter.export(batch).await.map_err(|error| error.to_string())
    }

    fn told(&self, span: Span) -> SpanData {
        let Span { trace, own, parent, began, ended, what } = span;
        let trace = opentelemetry::trace::TraceId::from(trace.bits());
        let (kind, name, attributes, status) = described(what);
        SpanData {
            span_context: SpanContext::new(
                trace,
                SpanId::from(own.get()),
                TraceFlags::SAMPLED,
                false,
                TraceState::NONE,
            ),
            parent_span_id: parent.map_or(SpanId::INVALID, |parent| SpanId::from(parent.get())),
            parent_span_is_remote: kind == SpanKind::Server && parent.is_some(),
            span_kind: kind,
            name,
            start_time: began.to_system_time(),
            end_time: ended.to_system_time(),
            attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status,
            instrumentation_scope: self.scope.clone(),
        }
    }
}

/// What was done, in the words that tracing backends know.
fn described(what: What) -> (SpanKind, Cow<'static, str>, Vec<KeyValue>, Status) {
    let mut attributes = Vec::with_capacity(8);
    let mut is = |attribute: KeyValue| attributes.push(attribute);
    match what {
        What::Request { over_tls, method, operation, outcome, status, phone, refused_by, client } => {
            is(KeyValue::new("http.request.method", method));
            is(KeyValue::new("url.scheme", if over_tls { "https" } else { "http" }));
            if let Some(route) = operation.route() {
                is(KeyValue::new("http.route", route));
            }
            if status != 0 {
                is(KeyValue::new("http.response.status_code", i64::from(status)));
            }
            if let Some(client) = client {
                is(KeyValue::new("client.address", client.to_string()));
            }
            is(KeyValue::new("sendly_gateway.operation", operation.name()));
            is(KeyValue::new("sendly_gateway.outcome", outcome.name()));
            if let Some(name) = refused_by {
                is(KeyValue::new("sendly_gateway.refused_by", name));
            }
            if let Some(phone) = phone {
                is(KeyValue::new("sendly_gateway.phone", phone.to_string()));
            }
            // A client that is told of its own mistake was served well.
            let failure = match status {
                0 => Some(outcome.name().to_owned()),
                500.. => Some(status.to_string()),
                _ => None,
            };
            let status = ended(failure, &mut is);
            (SpanKind::Server, name(method, operation), attributes, status)
        }
        What::Call { method, operation, server: (host, port), status, failure } => {
            is(KeyValue::new("http.request.method", method));
            is(KeyValue::new("server.address", host));
            is(KeyValue::new("server.port", i64::from(port)));
            if let Some(route) = operation.route() {
                is(KeyValue::new("url.template", route));
            }
            if let Some(status) = status {
                is(KeyValue::new("http.response.status_code", i64::from(status)));
            }
            let failure = match (failure, status) {
                (Some(failure), _) => Some(failure.name().to_owned()),
                (None, Some(status @ 400..)) => Some(status.to_string()),
                (None, _) => None,
            };
            let status = ended(failure, &mut is);
            (SpanKind::Client, name(method, operation), attributes, status)
        }
    }
}

/// Neither paths nor queries: they tell ids, and may tell phones.
fn name(method: &'static str, operation: Operation) -> Cow<'static, str> {
    let method = if method == "_OTHER" { "HTTP" } else { method };
    operation.route().map_or(Cow::Borrowed(method), |route| Cow::Owned(format!("{method} {route}")))
}

fn ended(failure: Option<String>, is: &mut impl FnMut(KeyValue)) -> Status {
    let Some(failure) = failure else { return Status::Unset };
    is(KeyValue::new("error.type", failure));
    Status::error("")
}
