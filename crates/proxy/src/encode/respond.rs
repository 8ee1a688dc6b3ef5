//! A response changed head and body.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame, SizeHint};

use super::plan::Action;
use super::{Budget, Config, Decoded, Encoded, Negotiation, Plan};
use crate::body::BodyError;

/// A body as it is, encoded or decoded.
pub enum Coded<B> {
    /// As it is.
    Plain(B),
    /// Compressed.
    Encoded(Box<Encoded<B>>),
    /// Decompressed.
    Decoded(Box<Decoded<B>>),
}

impl<B> Coded<B> {
    /// The body as it came.
    pub fn inner(&self) -> &B {
        match self {
            Self::Plain(body) => body,
            Self::Encoded(body) => body.inner(),
            Self::Decoded(body) => body.inner(),
        }
    }
}

/// Encodes or decodes a response for the client that asked, as [`Negotiation::plan`] says. Where
/// the budget is used up, the response stays as it is.
pub fn respond<B>(
    negotiation: &Negotiation,
    config: &Config,
    budget: &Budget,
    response: Response<B>,
) -> Response<Coded<B>>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BodyError>,
{
    let (mut head, body) = response.into_parts();
    let mut plan = negotiation.plan(config, head.status, &head.headers);
    let body = if negotiation.is_head() {
        Ok(Coded::Plain(body))
    } else {
        code(&plan, config, budget, body)
    };
    let body = body.unwrap_or_else(|body| {
        plan = plan.unchanged();
        Coded::Plain(body)
    });
    plan.apply(&mut head.headers, None);
    Response::from_parts(head, body)
}

/// Gives the body back if it can't be done.
fn code<B>(plan: &Plan, config: &Config, budget: &Budget, body: B) -> Result<Coded<B>, B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BodyError>,
{
    let memory = match plan.action {
        Action::Keep | Action::Vary => return Ok(Coded::Plain(body)),
        // There is nothing in it.
        _ if body.is_end_stream() => None,
        Action::Encode(coding) => budget.encoder(coding),
        Action::Decode(coding) => budget.decoder(coding),
    };
    let Some(memory) = memory else { return Err(body) };
    match (plan.action, config.decode) {
        (Action::Decode(_), Some(limits)) => {
            Decoded::new(body, memory, limits).map(|body| Coded::Decoded(Box::new(body)))
        }
        _ => Encoded::new(body, memory).map(|body| Coded::Encoded(Box::new(body))),
    }
}

impl<B> Body for Coded<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BodyError>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Plain(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Self::Encoded(body) => Pin::new(body.as_mut()).poll_frame(cx),
            Self::Decoded(body) => Pin::new(body.as_mut()).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Plain(body) => body.is_end_stream(),
            Self::Encoded(body) => body.is_end_stream(),
            Self::Decoded(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Plain(body) => body.size_hint(),
            Self::Encoded(body) => body.size_hint(),
            Self::Decoded(body) => body.size_hint(),
        }
    }
}
