//! What is refused and what is the same, by table; that different questions have different keys,
//! against a model that answers them.

mod model;
mod table;

use http::Request;
use http::request::Parts;
use selvedge_cache::key::Key;

use super::{Config, Identity, NotCacheable, Operation, read};

fn head(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

const JSON: (&str, &str) = ("content-type", "application/json");

fn post(body: &str) -> Result<Operation, NotCacheable> {
    read(&Config::default(), &head("POST", "/graphql", &[JSON]), body.as_bytes())
}

/// A body with a query and other members, each with a comma before it.
fn body(query: &str, more: &str) -> String {
    format!("{{\"query\":{}{more}}}", serde_json::to_string(query).unwrap())
}

fn key(operation: &Operation) -> Key {
    let mut key = Key::new();
    operation.extend(&mut key);
    key
}
