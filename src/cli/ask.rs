//! One question to the admin API of a gateway that runs, and its answer.

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::header::{AUTHORIZATION, HeaderValue};
use http::uri::Scheme;
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use super::{Failure, UNAVAILABLE, USAGE};

/// The gateway does not let whoever asks: the token is missing, or another (`EX_NOPERM`).
const NOT_ALLOWED: u8 = 77;

/// The answer is no: there is no such thing, or it is in the way.
const NO: u8 = 1;

/// Where the admin listener is unless somebody says otherwise.
const USUAL: &str = "http://127.0.0.1:9090";

/// Where it is; this program's own variable, and no key of the configuration.
pub(super) const URL: &str = "SENDLY_GATEWAY_ADMIN_URL";

const TOKEN: &str = "SENDLY_GATEWAY_ADMIN_TOKEN";
const TOKEN_FILE: &str = "SENDLY_GATEWAY_ADMIN_TOKEN_FILE";

const PATIENCE: Duration = Duration::from_secs(10);

/// More than any answer has.
const MAX_ANSWER: usize = 16 << 20;

/// Which gateway is asked.
#[derive(Debug, Args)]
pub(super) struct Where {
    /// Its admin listener; SENDLY_GATEWAY_ADMIN_URL, or http://127.0.0.1:9090, unless it stands here.
    #[arg(long, value_name = "URL")]
    admin: Option<String>,
}

/// Which gateway is asked, and what lets us.
#[derive(Debug, Args)]
pub(super) struct Target {
    #[command(flatten)]
    whereabouts: Where,
    /// The file with the admin token; otherwise SENDLY_GATEWAY_ADMIN_TOKEN has it, or SENDLY_GATEWAY_ADMIN_TOKEN_FILE names the file.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Who asks, for the gateway's log; the user of this session unless it stands here.
    #[arg(long, value_name = "NAME")]
    operator: Option<String>,
    /// Show the answer as it came: JSON, for scripts.
    #[arg(long)]
    pub(super) json: bool,
}

/// What the gateway said.
#[derive(Debug)]
pub(super) struct AdminReply {
    pub(super) status: StatusCode,
    pub(super) body: Vec<u8>,
}

impl Where {
    fn url(&self) -> Result<Uri, Failure> {
        let text = self.admin.clone().or_else(|| variable(URL)).unwrap_or_else(|| USUAL.to_owned());
        let wrong = || usage(format!("{text}: expected the URL of an admin listener such as {USUAL}"));
        let url: Uri = text.parse().map_err(|_| wrong())?;
        // The listener speaks nothing else.
        let is_http = url.scheme() == Some(&Scheme::HTTP) && url.authority().is_some();
        if is_http && url.path() == "/" && url.query().is_none() { Ok(url) } else { Err(wrong()) }
    }

    /// Asks what needs no token.
    pub(super) fn ask(&self, path: &str) -> Result<AdminReply, Failure> {
        exchange(&self.url()?, &Method::GET, path, &[])
    }
}

impl Target {
    /// Asks, and returns what the gateway says if it says yes.
    pub(super) fn ask(&self, method: &Method, path: &str) -> Result<Value, Failure> {
        let mut headers = vec![("x-operator", self.operator())];
        if let Some(token) = self.token()? {
            headers.push((AUTHORIZATION.as_str(), format!("Bearer {token}")));
        }
        let answer = exchange(&self.whereabouts.url()?, method, path, &headers)?;
        let value: Value = serde_json::from_slice(&answer.body)
            .map_err(|_| Failure::unavailable(format!("an answer that is none of a gateway's: {}", answer.status)))?;
        let code = match answer.status.as_u16() {
            200 => return Ok(value),
            400 => USAGE,
            401 | 403 => NOT_ALLOWED,
            500.. => UNAVAILABLE,
            _ => NO,
        };
        let message = value.get("message").and_then(Value::as_str).unwrap_or_else(|| answer.status.as_str());
        Err(Failure { code, message: message.to_owned() })
    }

    fn operator(&self) -> String {
        self.operator.clone().or_else(|| std::env::var("USER").ok()).unwrap_or_default()
    }

    fn token(&self) -> Result<Option<String>, Failure> {
        let file = self.token_file.clone().or_else(|| match variable(TOKEN) {
            Some(_) => None,
            None => variable(TOKEN_FILE).map(PathBuf::from),
        });
        let Some(file) = file else { return Ok(variable(TOKEN)) };
        let text = fs::read_to_string(&file).map_err(|error| usage(format!("{}: {error}", file.display())))?;
        Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn usage(message: String) -> Failure {
    Failure { code: USAGE, message }
}

fn exchange(url: &Uri, method: &Method, path: &str, headers: &[(&str, String)]) -> Result<AdminReply, Failure> {
    let mut request = Request::builder().method(method).uri(format!("{}{path}", url.to_string().trim_end_matches('/')));
    for (name, value) in headers.iter().filter(|(_, value)| !value.is_empty()) {
        let value = HeaderValue::from_str(value).map_err(|_| usage(format!("{name}: a header cannot hold that")))?;
        request = request.header(*name, value);
    }
    let request = request.body(Full::<Bytes>::default()).map_err(|error| usage(error.to_string()))?;
    let unreachable = |why: String| Failure::unavailable(format!("{url}: {why}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::unavailable)?;
    let asking = async {
        let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
        let answer = client.request(request).await.map_err(|error| unreachable(cause(&error)))?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|error| unreachable(error.to_string()))?;
        Ok(AdminReply { status: head.status, body: body.to_bytes().to_vec() })
    };
    let within = async { tokio::time::timeout(PATIENCE, asking).await };
    runtime.block_on(within).unwrap_or_else(|_| Err(unreachable("no answer in 10 s".to_owned())))
}

/// What lies at the bottom of an error: "connection refused" rather than "client error (Connect)".
fn cause(error: &hyper_util::client::legacy::Error) -> String {
    let mut cause: &dyn Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
