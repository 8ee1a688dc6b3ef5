//! GraphQL over HTTP: where a request has its query.

use std::borrow::Cow;

use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, Method};
use percent_encoding::percent_decode_str;
use selvedge_cache::key::Key;
use serde_json::value::RawValue;

use super::{Config, NotCacheable, document, identity, json};
use crate::fields::split;

/// The parameters that GraphQL over HTTP knows.
const PARAMETERS: [&str; 4] = ["query", "operationName", "variables", "extensions"];

/// A query with what its answer depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    method: Method,
    /// The parameters of the URL that are not GraphQL's, as they are.
    rest: String,
    document: String,
    name: Option<String>,
    variables: String,
    extensions: String,
    identity: Vec<Vec<u8>>,
}

impl Operation {
    /// Adds everything to a key that must already have the app, the host and the path, but not the
    /// URL's query, of which this has what matters.
    pub fn extend(&self, key: &mut Key) {
        key.push(b"graphql");
        key.push(self.method.as_str().as_bytes());
        key.push(self.rest.as_bytes());
        key.push(self.document.as_bytes());
        // A name is never empty.
        key.push(self.name.as_deref().unwrap_or_default().as_bytes());
        key.push(self.variables.as_bytes());
        key.push(self.extensions.as_bytes());
        for value in &self.identity {
            key.push(value);
        }
    }

    /// The document in the spelling that goes into the key.
    pub fn document(&self) -> &str {
        &self.document
    }
}

/// Whether a request is worth reading its body for, which is then to be given to [`read`]. Its
/// length is none if it is not known beforehand.
pub fn is_candidate(config: &Config, head: &Parts) -> bool {
    let length = head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    let fits = length.is_none_or(|length| {
        length.parse::<usize>().is_ok_and(|length| length <= config.max_bytes)
    });
    head.method == Method::POST && fits && format(&head.headers).is_some()
}

/// Reads a request whose path is a GraphQL endpoint. The body is empty for `GET`.
///
/// # Errors
/// Why the request is not for a cache. It goes to the app as it came.
pub fn read(config: &Config, head: &Parts, body: &[u8]) -> Result<Operation, NotCacheable> {
    if body.len() > config.max_bytes {
        return Err(NotCacheable::TooLong);
    }
    let (parameters, rest) = in_url(head.uri.query().unwrap_or_default())?;
    let parameters = match head.method {
        Method::GET if body.is_empty() => parameters,
        Method::POST if parameters.is_empty() => in_body(&head.headers, body)?,
        Method::POST => return Err(NotCacheable::Ambiguous),
        _ => return Err(NotCacheable::Format),
    };
    let query = parameters.query.ok_or(NotCacheable::NoQuery)?;
    // An empty name is none to some servers, and one that is not there to others.
    if parameters.name.as_deref() == Some("") {
        return Err(NotCacheable::OperationName);
    }
    let extensions = object(parameters.extensions.as_deref())?;
    if extensions.contains("\"persistedQuery\"") {
        return Err(NotCacheable::NoQuery);
    }
    Ok(Operation {
        method: head.method.clone(),
        rest,
        document: document::read(&query, parameters.name.as_deref())?.text,
        name: parameters.name.map(Cow::into_owned),
        variables: object(parameters.variables.as_deref())?,
        extensions,
        identity: identity::of(config, &head.headers)?,
    })
}

/// A request's parameters; the last two in JSON.
#[derive(Default)]
struct Parameters<'a> {
    query: Option<Cow<'a, str>>,
    name: Option<Cow<'a, str>>,
    variables: Option<Cow<'a, str>>,
    extensions: Option<Cow<'a, str>>,
}

impl<'a> Parameters<'a> {
    fn slot(&mut self, name: &str) -> Option<&mut Option<Cow<'a, str>>> {
        match name {
            "query" => Some(&mut self.query),
            "operationName" => Some(&mut self.name),
            "variables" => Some(&mut self.variables),
            "extensions" => Some(&mut self.extensions),
            _ => None,
        }
    }

    fn is_empty(&self) -> bool {
        [&self.query, &self.name, &self.variables, &self.extensions].iter().all(|one| one.is_none())
    }
}

/// The parameters in a URL's query, and what else is there.
fn in_url(query: &str) -> Result<(Parameters<'_>, String), NotCacheable> {
    let mut parameters = Parameters::default();
    let mut rest = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let decoded = decode(name)?;
        let Some(slot) = parameters.slot(&decoded) else {
            // Some servers ignore case, or take what follows a semicolon or bracket for a new one.
            let lower = decoded.to_lowercase();
            if PARAMETERS.iter().any(|known| lower.contains(&known.to_lowercase()))
                || pair.contains(';')
            {
                return Err(NotCacheable::Ambiguous);
            }
            rest.push(pair);
            continue;
        };
        if slot.replace(decode(value)?).is_some() {
            return Err(NotCacheable::Ambiguous);
        }
    }
    Ok((parameters, rest.join("&")))
}

/// Decodes as forms do (WHATWG URL, section 5.1).
fn decode(text: &str) -> Result<Cow<'_, str>, NotCacheable> {
    if !text.contains('+') {
        return percent_decode_str(text).decode_utf8().map_err(|_| NotCacheable::Ambiguous);
    }
    let text = text.replace('+', " ");
    let text = percent_decode_str(&text).decode_utf8().map_err(|_| NotCacheable::Ambiguous)?;
    Ok(Cow::Owned(text.into_owned()))
}

/// What a body is.
#[derive(Clone, Copy)]
enum Format {
    Json,
    Document,
}

/// What the body of a request is, if it can be read.
fn format(headers: &HeaderMap) -> Option<Format> {
    let mut types = headers.get_all(CONTENT_TYPE).into_iter();
    let (Some(content_type), None) = (types.next(), types.next()) else { return None };
    let content_type = content_type.as_bytes();
    let essence = content_type.split(|&byte| byte == b';').next()?.trim_ascii();
    let utf8 = |parameter: &[u8]| {
        let parameter = parameter.to_ascii_lowercase();
        matches!(parameter.as_slice(), b"charset=utf-8" | b"charset=\"utf-8\"")
    };
    if headers.contains_key(CONTENT_ENCODING) || !split(content_type, b';').skip(1).all(utf8) {
        return None;
    }
    if essence.eq_ignore_ascii_case(b"application/json") {
        Some(Format::Json)
    } else if essence.eq_ignore_ascii_case(b"application/graphql") {
        Some(Format::Document)
    } else {
        None
    }
}

fn in_body<'a>(headers: &HeaderMap, body: &'a [u8]) -> Result<Parameters<'a>, NotCacheable> {
    let format = format(headers).ok_or(NotCacheable::Format)?;
    let body = std::str::from_utf8(body).map_err(|_| NotCacheable::Format)?;
    match format {
        Format::Document => Ok(Parameters { query: Some(body.into()), ..Parameters::default() }),
        Format::Json if body.trim_ascii_start().starts_with('[') => Err(NotCacheable::Batch),
        Format::Json => {
            let mut parameters = Parameters::default();
            for (name, value) in json::members(body).ok_or(NotCacheable::Json)?.0 {
                let is_text = name == "query" || name == "operationName";
                let slot = parameters.slot(&name).ok_or(NotCacheable::Json)?;
                if value.get() == "null" {
                    // The same as nothing at all (GraphQL over HTTP, section 5.1).
                } else if is_text {
                    let text: String =
                        serde_json::from_str(value.get()).map_err(|_| NotCacheable::Json)?;
                    *slot = Some(text.into());
                } else {
                    *slot = Some(value.get().into());
                }
            }
            Ok(parameters)
        }
    }
}

/// An object in one spelling; none is an empty one.
fn object(text: Option<&str>) -> Result<String, NotCacheable> {
    let text = text.unwrap_or("{}").trim();
    if text == "null" {
        return Ok("{}".to_owned());
    }
    if !text.starts_with('{') {
        return Err(NotCacheable::Json);
    }
    let value: &RawValue = serde_json::from_str(text).map_err(|_| NotCacheable::Json)?;
    json::canonical(value).ok_or(NotCacheable::Json)
}
