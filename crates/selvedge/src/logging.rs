//! Logging as the environment asks for it: `SELVEDGE_LOG` (directives such as
//! `info,selvedge_proxy=debug`) and `SELVEDGE_LOG_FORMAT` (`text` or `json`).

use selvedge_telemetry::logging::{Config, Format, init};

use crate::failure::{Code, OrFail as _, Outcome};

/// Sets logging up for this process, whose part is `role` (of `site`).
pub(crate) fn start(role: &str, site: Option<&str>) -> Outcome {
    let format = match std::env::var("SELVEDGE_LOG_FORMAT").as_deref() {
        Ok("json") => Format::Json,
        _ => Format::Text,
    };
    let filter = std::env::var("SELVEDGE_LOG").unwrap_or_else(|_| "info".into());
    init(Config { format, role: role.into(), site: site.map(Into::into), filter }).or_fail(
        Code::Usage,
        "logging can't be set up",
        "mend SELVEDGE_LOG, or unset it",
    )
}
