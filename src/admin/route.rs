//! What can be asked of the admin listener: one closed list, which `docs/openapi.json` repeats.

use http::Method;
use percent_encoding::percent_decode_str;

/// What a route does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Page,
    Metrics,
    Live,
    Ready,
    Status,
    Config,
    OpenApi,
    Phone,
    ClearPhone,
    Verification,
    Exemptions,
    Exemption,
    Exempt,
    Unexempt,
    Log,
    SetLog,
}

impl Route {
    /// Whether the listener may be called by whatever name: where Prometheus and orchestrators ask, by names that nobody has to
    /// know here, and a web page learns next to nothing.
    pub(super) fn is_for_any_name(self) -> bool {
        matches!(self, Route::Metrics | Route::Live | Route::Ready)
    }
}

/// Who may take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Whoever reaches the listener.
    Open,
    /// Who shows the token: it changes something, or tells of one phone.
    Token,
}

/// One of them.
#[derive(Debug)]
pub(super) struct RouteEntry {
    pub(super) method: Method,
    /// Its path; a `{name}` at the end stands for one segment.
    pub(super) path: &'static str,
    pub(super) access: Access,
    pub(super) route: Route,
}

const fn entry(method: Method, path: &'static str, access: Access, route: Route) -> RouteEntry {
    RouteEntry { method, path, access, route }
}

/// All of them.
pub(super) static ROUTES: [RouteEntry; 16] = [
    entry(Method::GET, "/", Access::Open, Route::Page),
    entry(Method::GET, "/metrics", Access::Open, Route::Metrics),
    entry(Method::GET, "/livez", Access::Open, Route::Live),
    entry(Method::GET, "/readyz", Access::Open, Route::Ready),
    entry(Method::GET, "/v1/status", Access::Open, Route::Status),
    entry(Method::GET, "/v1/config", Access::Open, Route::Config),
    entry(Method::GET, "/v1/openapi.json", Access::Open, Route::OpenApi),
    entry(Method::GET, "/v1/log", Access::Open, Route::Log),
    entry(Method::PUT, "/v1/log", Access::Token, Route::SetLog),
    entry(Method::GET, "/v1/phones/{phone}", Access::Token, Route::Phone),
    entry(Method::DELETE, "/v1/phones/{phone}", Access::Token, Route::ClearPhone),
    entry(Method::GET, "/v1/verifications/{id}", Access::Token, Route::Verification),
    entry(Method::GET, "/v1/exemptions", Access::Token, Route::Exemptions),
    entry(Method::GET, "/v1/exemptions/{phone}", Access::Token, Route::Exemption),
    entry(Method::PUT, "/v1/exemptions/{phone}", Access::Token, Route::Exempt),
    entry(Method::DELETE, "/v1/exemptions/{phone}", Access::Token, Route::Unexempt),
];

/// Where a request leads.
#[derive(Debug)]
pub(super) enum FoundRoute {
    /// There, with what stands in its path.
    Route(&'static RouteEntry, String),
    /// There is something, for these methods.
    WrongMethod(String),
    /// Nowhere.
    Nothing,
}

/// Finds the route of a request. HEAD is a GET whose answer has no body.
pub(super) fn find(method: &Method, path: &str) -> FoundRoute {
    let wanted = if method == Method::HEAD { &Method::GET } else { method };
    let mut allowed = Vec::new();
    for entry in &ROUTES {
        let Some(parameter) = entry.parameter(path) else { continue };
        if entry.method == *wanted {
            return FoundRoute::Route(entry, parameter);
        }
        allowed.push(entry.method.as_str());
        if entry.method == Method::GET {
            allowed.push(Method::HEAD.as_str());
        }
    }
    if allowed.is_empty() { FoundRoute::Nothing } else { FoundRoute::WrongMethod(allowed.join(", ")) }
}

impl RouteEntry {
    /// What stands in a path where this route's has a place for it, decoded: nothing, where it has none. `None` if the path is
    /// another.
    fn parameter(&self, path: &str) -> Option<String> {
        let Some((start, _)) = self.path.split_once('{') else {
            return (self.path == path).then(String::new);
        };
        let segment = path.strip_prefix(start).filter(|segment| !segment.is_empty() && !segment.contains('/'))?;
        percent_decode_str(segment).decode_utf8().ok().map(Into::into)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn found(method: &Method, path: &str) -> Option<(Route, String)> {
        match find(method, path) {
            FoundRoute::Route(entry, parameter) => Some((entry.route, parameter)),
            _ => None,
        }
    }

    #[test]
    fn a_path_leads_where_it_says_and_nowhere_else() {
        let get = |path| found(&Method::GET, path);
        assert_eq!(get("/v1/phones/%2B15550100123"), Some((Route::Phone, "+15550100123".into())));
        assert_eq!(get("/v1/phones/15550100123"), Some((Route::Phone, "15550100123".into())));
        assert_eq!(get("/v1/exemptions"), Some((Route::Exemptions, String::new())));
        assert_eq!(found(&Method::HEAD, "/readyz"), Some((Route::Ready, String::new())));
        for path in ["/v1/phones", "/v1/phones/", "/v1/phones/1/2", "/v1/phones/%ff", "/v1/status/", "/V1/status", "//"]
        {
            assert_eq!(get(path), None, "{path}");
        }
        let FoundRoute::WrongMethod(allowed) = find(&Method::POST, "/v1/phones/1") else { panic!("no POST") };
        assert_eq!(allowed, "GET, HEAD, DELETE");
    }

    #[test]
    fn what_changes_something_or_tells_of_a_phone_asks_for_the_token() {
        for RouteEntry { method, path, access, .. } in &ROUTES {
            let tells = ["phones", "verifications", "exemptions"].iter().any(|word| path.contains(word));
            assert_eq!(*access == Access::Token, tells || *method != Method::GET, "{method} {path}");
        }
    }

    #[test]
    fn the_manual_tells_of_each_route() {
        let manual = include_str!("../../docs/admin.md");
        for RouteEntry { method, path, .. } in &ROUTES {
            assert!(manual.contains(&format!("{path}`")) && manual.contains(&format!("`{method}")), "{method} {path}");
        }
    }

    #[test]
    fn the_document_tells_of_each_route_and_of_none_that_is_not_there() {
        let document: serde_json::Value = serde_json::from_str(include_str!("../../docs/openapi.json")).unwrap();
        let mut told = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap().iter().filter(|(key, _)| *key != "parameters") {
                let secured = operation["security"].as_array().is_some_and(|schemes| !schemes.is_empty());
                assert!(operation["summary"].is_string() && operation["responses"].is_object(), "{method} {path}");
                for status in ["401", "403"] {
                    assert_eq!(operation["responses"][status].is_object(), secured, "{method} {path} {status}");
                }
                told.insert((path.clone(), method.to_uppercase(), secured));
            }
        }
        let known = |RouteEntry { method, path, access, .. }: &RouteEntry| {
            ((*path).to_owned(), method.as_str().to_owned(), *access == Access::Token)
        };
        assert_eq!(told, ROUTES.iter().map(known).collect());
    }
}
