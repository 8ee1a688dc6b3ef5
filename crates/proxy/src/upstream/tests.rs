use std::sync::atomic::AtomicUsize;

use http_body_util::Empty;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::runtime::{Builder, Runtime};

use super::*;
use crate::Stream;

/// A server in memory that counts its connections.
#[derive(Default)]
struct Counting(AtomicUsize);

#[async_trait::async_trait]
impl Connect for Counting {
    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        let (ours, theirs) = tokio::io::duplex(1 << 10);
        let answer = service_fn(async |_| Response::builder().body(Empty::<bytes::Bytes>::new()));
        tokio::spawn(
            hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(theirs), answer),
        );
        Ok(Box::new(ours))
    }
}

async fn get(upstream: &Upstream) {
    let request = Request::new(RequestBody::Empty);
    let answer = upstream.send(upstream.enter(), request, &Received::default(), false).await;
    let mut body = answer.unwrap().into_body();
    assert!(std::future::poll_fn(|cx| body.poll_frame(cx)).await.is_none());
}

fn shard() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn a_connection_stays_with_its_shard_and_the_limit_is_over_all() {
    let (one, two) = (shard(), shard());
    for (max_idle, expected) in [(2, [1, 2, 2, 2, 4]), (1, [1, 3, 3, 5, 7]), (0, [2, 4, 6, 8, 10])]
    {
        let server = Arc::new(Counting::default());
        let limits = UpstreamLimits {
            max_idle,
            idle_timeout: Duration::from_secs(3600),
            ..UpstreamLimits::default()
        };
        let connect = Arc::clone(&server) as Arc<dyn Connect>;
        let upstream = Upstream::with_limits("web".into(), connect, limits);
        let three = shard();
        let opened = [&one, &two, &one, &two, &three].map(|shard| {
            shard.block_on(get(&upstream));
            shard.block_on(get(&upstream));
            server.0.load(Ordering::SeqCst)
        });
        // Who comes when others keep as many as are allowed keeps none.
        assert_eq!(opened, expected, "{max_idle}");
        // A shard that has ended takes its connections along, and nobody waits for them.
        drop(three);
        assert_eq!(upstream.in_flight(), 0);
    }
}
