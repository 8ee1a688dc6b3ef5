//! The console: web pages that show how an installation stands, and stay up to date while they are
//! open.
//!
//! Pages are made here from the documents that control has anyway, as whole HTML, and work as they
//! are; the one script replaces sections of them as the server sends new ones. There is no second
//! API, no build step and no resource of anybody else. Nothing can be changed from here: what
//! users see is changed by git, through the pipeline.
//!
//! **Signing in.** `selvedge console` asks the API, with the operator's token, for a link with a
//! one-time code. Opening the link does not use the code up, as programs that preview or prefetch
//! links would do so before the person: it shows a button, whose POST does. The token itself never
//! reaches a browser. See [`access`] for what is kept, and [`gate`] for what browsers may do.

mod access;
mod app;
mod assets;
mod gate;
mod live;
mod logs;
mod map;
mod overview;
mod page;
mod parts;
mod pushes;
mod routes;
mod site;
mod tail;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use selvedge_api::{ControlStatus, Token};
use tokio::sync::{Semaphore, watch};

pub(crate) use gate::Reach;
pub(crate) use tail::PATIENCE;

use self::access::Access;
use self::page::{Frame, Look};
use crate::data::DataError;
use crate::now_ms;
use crate::world::World;

/// The largest form that is posted: a code and its name.
const MAX_FORM: usize = 1 << 10;

/// The console. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Console(Arc<Parts>);

struct Parts {
    config: Config,
    access: Access,
    streams: Arc<Semaphore>,
    version: String,
}

/// What the console works with.
pub(crate) struct Config {
    /// Kept up to date by a mirror; its end is the end of all streams.
    pub(crate) world: watch::Receiver<World>,
    /// Control, as it is at first.
    pub(crate) control: ControlStatus,
    /// What does not work at the moment.
    pub(crate) problems: Arc<dyn Fn() -> Vec<String> + Send + Sync>,
    /// Opens the log.
    pub(crate) logs: tail::Open,
    /// How people sign in.
    pub(crate) signing: Signing,
}

/// How people sign in.
pub(crate) struct Signing {
    /// The operator's token.
    pub(crate) token: Token,
    /// Where sessions are kept.
    pub(crate) sessions: PathBuf,
    /// By which names it is reached.
    pub(crate) reach: Reach,
}

impl Console {
    pub(crate) fn new(config: Config) -> Self {
        let signing = &config.signing;
        let access = Access::load(signing.token.clone(), signing.sessions.clone());
        let streams = Arc::new(Semaphore::new(live::MAX_STREAMS));
        Self(Arc::new(Parts { config, access, streams, version: assets::version() }))
    }

    /// Everything below `/console`.
    pub(crate) fn router(self) -> Router {
        Router::new()
            .route("/console", get(routes::overview))
            .route("/console/", get(routes::home))
            .route("/console/sign-in", get(routes::link).post(routes::sign_in))
            .route("/console/sign-out", post(routes::sign_out))
            .route("/console/assets/{version}/{name}", get(assets::serve))
            .route("/console/live/", get(routes::live_overview))
            .route("/console/live/{*view}", get(routes::live))
            .route("/console/{*view}", get(routes::view))
            .layer(DefaultBodyLimit::max(MAX_FORM))
            .layer(from_fn_with_state(self.clone(), gate::guard))
            .with_state(self)
    }

    /// A new one-time link: its path and query, and how long it can be used.
    pub(crate) fn link(&self) -> Result<(String, u64), DataError> {
        let code = self.access().new_code(Instant::now())?;
        Ok((format!("/console/sign-in?code={code}"), access::CODE_LIFE.as_millis() as u64))
    }

    fn access(&self) -> &Access {
        &self.0.access
    }

    fn reach(&self) -> &Reach {
        &self.0.config.signing.reach
    }

    fn streams(&self) -> &Arc<Semaphore> {
        &self.0.streams
    }

    fn version(&self) -> &str {
        &self.0.version
    }

    fn world(&self) -> watch::Receiver<World> {
        self.0.config.world.clone()
    }

    fn logs(&self) -> &tail::Open {
        &self.0.config.logs
    }

    fn frame(&self) -> Frame<'_> {
        Frame { version: &self.0.version, zone: self.0.config.control.zone.as_str() }
    }

    fn look<'a>(&'a self, world: &'a World, ask_why: bool) -> Look<'a> {
        let mut control = self.0.config.control.clone();
        control.problems.extend((self.0.config.problems)());
        Look { world, control, now_ms: now_ms(), version: &self.0.version, ask_why }
    }
}
