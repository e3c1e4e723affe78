//! The listener for operators: a status page, metrics, probes, and an API to ask and to change things while the gateway runs.
//!
//! What shows no more than logs do is for whoever reaches the listener; phones stand there masked, as in logs. What tells of one
//! phone or changes something asks for the token that the configuration names. The API itself tells no phone in full, ever. But for
//! metrics and probes, it has to be called by a name that is its own (`admin/host.rs`).

mod answer;
mod config;
pub(crate) mod connection;
pub(crate) mod history;
mod host;
mod log;
mod page;
mod phones;
mod route;
mod status;
mod top_refused;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::header::{ALLOW, AUTHORIZATION, WWW_AUTHENTICATE};
use http::{Method, Response, StatusCode, Uri};
use pingora::apps::http_app::ServeHttp;
use pingora::protocols::http::ServerSession;

use crate::gateway::Gateway;
use answer::AdminAnswer;
use history::Board;
use route::{Access, FoundRoute, Route};

/// See the module's documentation.
pub(crate) struct Admin {
    gateway: Arc<Gateway>,
    board: Arc<Board>,
}

/// A request, as far as routes need it.
struct AdminRequest {
    /// What stands in the path where the route has a place for it, decoded.
    parameter: String,
    query: String,
    body: Vec<u8>,
    /// Who says that they ask.
    operator: String,
}

/// For a whole body. None that is asked for has a hundred bytes.
const MAX_BODY: usize = 4096;
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

impl Admin {
    /// An admin for this gateway, and what it has seen of it.
    pub(crate) fn new(gateway: Arc<Gateway>, board: Arc<Board>) -> Self {
        Self { gateway, board }
    }

    async fn answer(&self, route: Route, asked: &AdminRequest) -> AdminAnswer {
        match route {
            Route::Page => page::page(),
            Route::Metrics => AdminAnswer::exposition(self.gateway.expose()),
            Route::Live => AdminAnswer::text(StatusCode::OK, "ok\n"),
            Route::Ready => match self.not_ready() {
                None => AdminAnswer::text(StatusCode::OK, &format!("ok\n{}", status::ledger_line(&self.gateway))),
                Some(why) => AdminAnswer::text(StatusCode::SERVICE_UNAVAILABLE, &format!("not ready: {why}\n")),
            },
            Route::Status => AdminAnswer::json(&status::status(&self.gateway, &self.board, self.not_ready())),
            Route::Config => AdminAnswer::json(&config::shown(&self.gateway.config())),
            Route::OpenApi => AdminAnswer::document(include_str!("../docs/openapi.json")),
            Route::Phone => phones::look(&self.gateway, asked).await,
            Route::ClearPhone => phones::clear(&self.gateway, asked).await,
            Route::Verification => phones::verification(&self.gateway, asked).await,
            Route::Exemptions => phones::exemptions(&self.gateway),
            Route::Exemption => phones::exemption(&self.gateway, asked),
            Route::Exempt => phones::exempt(&self.gateway, asked),
            Route::Unexempt => phones::unexempt(&self.gateway, asked),
            Route::Log => log::filter(),
            Route::SetLog => log::set(&self.gateway, asked),
        }
    }

    fn not_ready(&self) -> Option<&'static str> {
        if self.gateway.is_draining() {
            return Some("draining");
        }
        (!self.gateway.is_ready()).then_some("no address of the upstream is known")
    }

    /// Whether this may go on: it shows the token, or needs none.
    fn admit(&self, access: Access, shown: Option<&[u8]>) -> Result<(), AdminAnswer> {
        if access == Access::Open {
            return Ok(());
        }
        let Some(token) = self.gateway.admin_token() else {
            let message = "This needs a token, and none is configured: set admin.token or admin.token_file.";
            return Err(AdminAnswer::error(StatusCode::FORBIDDEN, "token_not_configured", message));
        };
        let scheme = |shown: &&[u8]| shown.get(..7).is_some_and(|start| start.eq_ignore_ascii_case(b"bearer "));
        let shown = shown.filter(scheme).and_then(|shown| shown.get(7..)).map(<[u8]>::trim_ascii);
        if shown.is_some_and(|shown| token.is(shown)) {
            return Ok(());
        }
        let message = "This needs the admin token: Authorization: Bearer TOKEN.";
        let refusal = AdminAnswer::error(StatusCode::UNAUTHORIZED, "unauthorized", message);
        Err(refusal.with(WWW_AUTHENTICATE, "Bearer"))
    }

    async fn serve(&self, session: &mut ServerSession) -> AdminAnswer {
        session.set_read_timeout(Some(BODY_TIMEOUT));
        let header = session.req_header_mut();
        let uri = header.uri.clone();
        let (method, operator) = (header.method.clone(), phones::operator(header.headers.get("x-operator")));
        let is_own = host::is_own(header, &self.gateway.settings().config().admin.hosts);
        let shown = header.headers.get(AUTHORIZATION).map(|value| value.as_bytes().to_vec());
        // pingora names a request by its target when it cannot answer it: a phone may stand there.
        header.set_uri(Uri::from_static("/"));
        let (entry, parameter) = match route::find(&method, uri.path()) {
            FoundRoute::Route(entry, parameter) => (entry, parameter),
            FoundRoute::WrongMethod(allowed) => {
                let message = format!("Here is {allowed}.");
                let refusal = AdminAnswer::error(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", &message);
                return refusal.with(ALLOW, &allowed);
            }
            FoundRoute::Nothing => {
                return AdminAnswer::error(
                    StatusCode::NOT_FOUND,
                    "not_found",
                    "GET /v1/openapi.json tells what there is.",
                );
            }
        };
        if !is_own && !entry.route.is_for_any_name() {
            let message = "This listener does not go by that name: use its address, or put the name into admin.hosts.";
            return AdminAnswer::error(StatusCode::MISDIRECTED_REQUEST, "unknown_host", message);
        }
        if let Err(refusal) = self.admit(entry.access, shown.as_deref()) {
            return refusal;
        }
        let Some(body) = body(session).await else {
            let message = format!("A body of {MAX_BODY} bytes at most is read, within 5 s.");
            return AdminAnswer::error(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", &message);
        };
        let query = uri.query().unwrap_or_default().to_owned();
        self.answer(entry.route, &AdminRequest { parameter, query, body, operator }).await
    }
}

/// The whole body; `None` if it is too long or does not come.
async fn body(session: &mut ServerSession) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    while let Ok(Some(bytes)) = session.read_request_body().await {
        if body.len() + bytes.len() > MAX_BODY {
            return None;
        }
        body.extend_from_slice(&bytes);
    }
    session.is_body_done().then_some(body)
}

#[async_trait]
impl ServeHttp for Admin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let is_head = session.req_header().method == Method::HEAD;
        let answer = self.serve(session).await;
        answer.into_response(is_head)
    }
}
