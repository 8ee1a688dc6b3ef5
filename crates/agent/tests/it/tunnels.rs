//! Orders and tunnels, from control's end: who is let in, what is answered, and that it ends.

use futures_util::{SinkExt as _, StreamExt as _};
use selvedge_api::{
    LogEvent, LogFilter, LogSource, MAX_TUNNEL_LINE, TunnelHello, TunnelProof, TunnelQuestion,
    TunnelWelcome,
};
use selvedge_fabric::socket::Socket;
use selvedge_model::keys;
use selvedge_model::operation::{
    Answer, AnswerState, OperationId, Order, Target, Task, TunnelEnd, TunnelSecret,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio_util::codec::{Framed, LinesCodec};

use crate::world::{World, fra, get, until};

type Lines = Framed<UnixStream, LinesCodec>;

/// Control's end.
struct Control<'w> {
    world: &'w World,
    socket: Socket,
    orders: u32,
}

impl<'w> Control<'w> {
    fn new(world: &'w World) -> Self {
        let socket = Socket::bind(&world.directory.path().join("tunnel.sock")).unwrap();
        Self { world, socket, orders: 0 }
    }

    async fn order(&mut self, secret: &TunnelSecret) -> OperationId {
        self.orders += 1;
        let operation = OperationId::new(1, self.orders);
        let order = Order { operation, task: Task::OpenTunnel(secret.clone()) };
        self.world.put(&keys::order(&fra(), operation), &order).await;
        operation
    }

    /// Takes the connection that an order leads to, up to the site's first line.
    async fn accept(&self) -> (Lines, TunnelHello) {
        let stream = self.socket.accept().await.unwrap();
        let mut lines = Framed::new(stream, LinesCodec::new_with_max_length(MAX_TUNNEL_LINE));
        let hello: TunnelHello = receive(&mut lines).await.unwrap();
        assert_eq!(hello.target, Target::sole(fra()));
        (lines, hello)
    }

    /// Opens a tunnel and asks.
    async fn ask(&mut self, question: &TunnelQuestion) -> (Lines, OperationId) {
        let secret = TunnelSecret::new([9; 32]);
        let operation = self.order(&secret).await;
        let (mut lines, hello) = self.accept().await;
        assert_eq!(hello.operation, operation);
        let about = (operation, &hello.target);
        let proof = secret.prove(TunnelEnd::Control, about, &hello.nonce);
        send(&mut lines, &TunnelWelcome::Proof { nonce: "n".into(), proof }).await;
        let theirs: TunnelProof = receive(&mut lines).await.unwrap();
        assert!(secret.verify(TunnelEnd::Site, about, "n", &theirs.proof));
        send(&mut lines, question).await;
        (lines, operation)
    }

    async fn answer(
        &self,
        operation: OperationId,
        wanted: impl Fn(&AnswerState) -> bool,
    ) -> AnswerState {
        until("an answer", || async {
            let answer: Answer = self.world.get(&keys::answer(&fra(), operation)).await?;
            Some(answer.state).filter(&wanted)
        })
        .await
    }
}

async fn send(lines: &mut Lines, value: &impl Serialize) {
    lines.send(serde_json::to_string(value).unwrap()).await.unwrap();
}

async fn receive<T: DeserializeOwned>(lines: &mut Lines) -> Option<T> {
    let line = lines.next().await?;
    Some(serde_json::from_str(&line.unwrap()).unwrap())
}

fn logs(filter: LogFilter) -> TunnelQuestion {
    TunnelQuestion::Logs(Box::new(filter))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_control_is_answered_and_each_order_once() {
    let world = World::new().await;
    let mut control = Control::new(&world);
    let agent = world.agent().await;

    // Whoever does not have the secret learns nothing.
    let operation = control.order(&TunnelSecret::new([1; 32])).await;
    let (mut lines, hello) = control.accept().await;
    let wrong = TunnelSecret::new([2; 32]);
    let proof = wrong.prove(TunnelEnd::Control, (operation, &hello.target), &hello.nonce);
    send(&mut lines, &TunnelWelcome::Proof { nonce: "n".into(), proof }).await;
    assert!(lines.next().await.is_none(), "it hangs up");
    let failed = control.answer(operation, |it| matches!(it, AnswerState::Failed { .. })).await;
    let AnswerState::Failed { reason } = failed else { panic!("{failed:?}") };
    assert!(reason.contains("does not have the tunnel's secret"), "{reason}");
    // A refusal is passed on in words.
    let operation = control.order(&wrong).await;
    let (mut lines, _) = control.accept().await;
    send(&mut lines, &TunnelWelcome::Refused { reason: "too late".into() }).await;
    let failed = control.answer(operation, |it| matches!(it, AnswerState::Failed { .. })).await;
    assert!(matches!(failed, AnswerState::Failed { reason } if reason.contains("too late")));

    // The right one is answered, up to what is there.
    let (mut lines, operation) = control.ask(&logs(LogFilter::default())).await;
    let mut events = Vec::new();
    while let Some(event) = receive::<LogEvent>(&mut lines).await {
        events.push(event);
    }
    assert!(matches!(events.last(), Some(LogEvent::Current { .. })), "{events:?}");
    let Some(LogEvent::Record(first)) = events.first() else { panic!("{events:?}") };
    assert!(first.text.starts_with("agent ") && first.source == LogSource::Event);
    control.answer(operation, |it| *it == AnswerState::Applied).await;

    // An agent that starts again finds its answers and does nothing twice.
    agent.stop().await;
    let agent = world.agent().await;
    let (_, newest) = control.ask(&TunnelQuestion::Workloads).await;
    assert!(newest > operation);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_is_told_of_requests_and_is_let_go() {
    let world = World::new().await;
    let mut control = Control::new(&world);
    let agent = world.agent().await;
    let follow = LogFilter {
        source: [LogSource::Access].into(),
        status: Some("421".parse().unwrap()),
        follow: true,
        limit: Some(0),
        ..LogFilter::default()
    };
    let (mut lines, _) = control.ask(&logs(follow.clone())).await;
    let Some(LogEvent::Current { cursor }) = receive(&mut lines).await else { panic!("current") };
    for path in ["/1", "/2"] {
        get(agent.http, "nobody.edge.test", path, None).await;
        let Some(LogEvent::Record(record)) = receive(&mut lines).await else { panic!("a record") };
        assert_eq!(record.access.as_ref().unwrap().path, path);
        assert_eq!(record.site, Some(fra()));
        assert_eq!(record.text, format!("GET {path} 421 unknown-host"));
    }
    drop(lines);

    // Later, from where the first was: nothing is left out, nothing repeated.
    get(agent.http, "nobody.edge.test", "/3", None).await;
    let (mut lines, _) = control.ask(&logs(LogFilter { after: cursor, ..follow })).await;
    let mut paths = Vec::new();
    while paths.len() < 3 {
        match receive(&mut lines).await {
            Some(LogEvent::Record(record)) => paths.push(record.access.unwrap().path),
            Some(LogEvent::Current { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(paths, ["/1", "/2", "/3"]);
    agent.stop().await;
    // A site that ends hangs up, after what it has said.
    while let Some(event) = receive::<LogEvent>(&mut lines).await {
        assert!(matches!(event, LogEvent::Current { .. }), "{event:?}");
    }
}
