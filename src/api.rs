//! The Sendly API as data: its operations and where they stand, the shapes of its bodies, its error codes.
//!
//! Source of every fact here: Sendly's public API documentation and the sources of its SDKs (`docs/sendly.md`).

pub mod body;
pub mod path;
pub mod sdk;

/// Where the API starts, on Sendly's host and on the gateway's.
pub const API: &str = "/api/v1";

/// What a request to the verify family asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Operation {
    /// `POST /verify`: a code to a phone, under a new verification.
    Send,
    /// `POST /verify/{id}/resend`: another code for a verification.
    Resend,
    /// `POST /verify/{id}/check`: is this the code?
    Check,
    /// `GET /verify/{id}`.
    Get,
    /// `GET /verify`.
    List,
    /// The five routes of `/verify/profiles`.
    Profiles,
    /// The two routes of `/verify/sessions`.
    Sessions,
    /// Anything outside the verify family.
    #[default]
    Other,
}

impl Operation {
    /// Every operation, for whoever needs one of something for each.
    pub const ALL: [Operation; 8] = [
        Operation::Send,
        Operation::Resend,
        Operation::Check,
        Operation::Get,
        Operation::List,
        Operation::Profiles,
        Operation::Sessions,
        Operation::Other,
    ];

    /// Its name in config, metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Operation::Send => "send",
            Operation::Resend => "resend",
            Operation::Check => "check",
            Operation::Get => "get",
            Operation::List => "list",
            Operation::Profiles => "profiles",
            Operation::Sessions => "sessions",
            Operation::Other => "other",
        }
    }

    /// Its route, with names in the place of what differs from request to request; `None` where it is not one route.
    pub const fn route(self) -> Option<&'static str> {
        match self {
            Operation::Send | Operation::List => Some("/api/v1/verify"),
            Operation::Resend => Some("/api/v1/verify/{id}/resend"),
            Operation::Check => Some("/api/v1/verify/{id}/check"),
            Operation::Get => Some("/api/v1/verify/{id}"),
            Operation::Profiles | Operation::Sessions | Operation::Other => None,
        }
    }

    /// Whether its answer shows an id beside the phone that it belongs to, so that the gateway can learn it.
    pub const fn shows_phone(self) -> bool {
        matches!(self, Operation::Send | Operation::Resend | Operation::Check | Operation::Get)
    }
}

/// A request's method by its name, or `_OTHER`, as OpenTelemetry has it, for one that is not of HTTP's own: that may be a client's own
/// words, a phone or a key.
pub fn method(method: &str) -> &'static str {
    match method {
        "POST" => "POST",
        "GET" => "GET",
        "HEAD" => "HEAD",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        "TRACE" => "TRACE",
        "CONNECT" => "CONNECT",
        _ => "_OTHER",
    }
}

/// Machine-readable error codes (`error` in a body): Sendly's own, and the gateway's where Sendly has none.
pub mod code {
    /// 400: the request cannot be understood.
    pub const INVALID_REQUEST: &str = "invalid_request";
    /// 400: `to` is not a phone number in E.164.
    pub const INVALID_PHONE_FORMAT: &str = "invalid_phone_format";
    /// 401: no API key.
    pub const UNAUTHORIZED: &str = "unauthorized";
    /// 401: an API key that Sendly does not know.
    pub const INVALID_API_KEY: &str = "invalid_api_key";
    /// 429: Sendly has locked out an address after too many unknown API keys.
    pub const TOO_MANY_FAILED_KEYS: &str = "too_many_failed_key_attempts";
    /// 503, the gateway's own: Sendly has not accepted this API key yet, and cannot be asked now.
    pub const KEY_NOT_PROVEN: &str = "key_not_proven";
    /// 404: no such verification, or no such route.
    pub const NOT_FOUND: &str = "not_found";
    /// 429: a window is full. The eight SDKs know it; five of them sleep through a short one and then buy a code.
    pub const RATE_LIMIT_EXCEEDED: &str = "rate_limit_exceeded";
    /// 429, the gateway's own: a cooldown is not over. No SDK but Node's retries it.
    pub const RESEND_COOLDOWN: &str = "resend_cooldown";
    /// 429, the gateway's own: a window is full, told to an SDK that would sleep through `rate_limit_exceeded` and then send.
    pub const RATE_LIMIT_WAIT: &str = "rate_limit_wait";
    /// 500: something broke inside.
    pub const INTERNAL_ERROR: &str = "internal_error";
    /// 500: Sendly could not hand the code to a carrier. Nothing was sent.
    pub const DELIVERY_FAILED: &str = "delivery_failed";
    /// 405, the gateway's own.
    pub const METHOD_NOT_ALLOWED: &str = "method_not_allowed";
    /// 408, the gateway's own: the request's body did not arrive in time.
    pub const REQUEST_TIMEOUT: &str = "request_timeout";
    /// 413, the gateway's own.
    pub const PAYLOAD_TOO_LARGE: &str = "payload_too_large";
    /// 431, the gateway's own: the request's head is too large.
    pub const HEADERS_TOO_LARGE: &str = "headers_too_large";
    /// 502, the gateway's own: Sendly could not be reached, or broke off.
    pub const UPSTREAM_UNREACHABLE: &str = "upstream_unreachable";
    /// 504, the gateway's own: Sendly did not answer in time.
    pub const UPSTREAM_TIMEOUT: &str = "upstream_timeout";
    /// 409, the gateway's own, to a retry: the answer that it asks for again was too large to be kept.
    pub const ANSWER_TOO_LARGE: &str = "answer_too_large";
    /// 503, the gateway's own: it tracks as many keys, or keeps as many answers, as its configuration lets it.
    pub const AT_CAPACITY: &str = "at_capacity";
    /// 503, the gateway's own: it serves as many requests at a time as its configuration lets it.
    pub const OVERLOADED: &str = "overloaded";
    /// 503, the gateway's own: the ledger that it shares with others cannot be asked, and it is configured to refuse then.
    pub const LEDGER_AWAY: &str = "ledger_unavailable";
}
