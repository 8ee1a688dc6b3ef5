//! Header fields that are lists.

use http::{HeaderMap, HeaderName};

pub(crate) use selvedge_cache::list::{members, split, tags};

/// Whether a field has the directive, whatever its argument.
pub(crate) fn has_directive(headers: &HeaderMap, name: &HeaderName, directive: &str) -> bool {
    members(headers, name).any(|member| {
        let name = member.split(|&byte| byte == b'=').next().unwrap_or_default();
        name.trim_ascii_end().eq_ignore_ascii_case(directive.as_bytes())
    })
}
