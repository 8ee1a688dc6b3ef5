//! Operations and tunnels from a site's end, with control's restart in between.

use std::path::Path;
use std::sync::Arc;

use selvedge_api::OperationRow;
use selvedge_fabric::embedded::Embedded;
use selvedge_fabric::{Change, Expect, SharedFabric, Typed};
use selvedge_model::keys;
use selvedge_model::operation::{Answer, AnswerState, Operation, Order};

use super::*;

/// Control's part: dropped, it is gone as by a kill.
struct Control {
    operations: Operations,
    tunnels: Tunnels,
    token: CancellationToken,
    tasks: tokio::task::JoinSet<()>,
}

impl Control {
    async fn start(directory: &Path, fabric: &SharedFabric) -> Self {
        let socket = Socket::bind(&directory.join("tunnel.sock")).unwrap();
        let operations = Operations::open(fabric.clone()).await.unwrap();
        let tunnels = Tunnels::new(operations.clone());
        let token = CancellationToken::new();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(operations.clone().run(token.clone()));
        tasks.spawn(tunnels.clone().run(socket, token.clone()));
        Self { operations, tunnels, token, tasks }
    }

    async fn kill(mut self) {
        self.tasks.abort_all();
        while self.tasks.join_next().await.is_some() {}
        drop(self.token);
    }

    async fn row(&self, wanted: impl Fn(&OperationRow) -> bool) -> OperationRow {
        loop {
            let rows = self.operations.list().await.unwrap();
            if let Some(row) = rows.into_iter().find(&wanted) {
                return row;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn fra() -> SiteId {
    SiteId::new("fra").unwrap()
}

async fn leased(fabric: &SharedFabric) {
    let name = keys::site_lease(&fra());
    fabric.lease(&name, "agent", Duration::from_secs(600)).await.unwrap().unwrap();
}

/// The next order to the site.
async fn order(fabric: &SharedFabric) -> Order {
    let mut watch = fabric.watch(&keys::orders(&fra()), None).await.unwrap();
    loop {
        if let Some(Change::Put(document)) = watch.next().await {
            return document.parse().unwrap();
        }
    }
}

async fn answer(fabric: &SharedFabric, operation: OperationId, state: AnswerState) {
    let answer = Answer { operation, target: Target::sole(fra()), state };
    let key = keys::answer(&fra(), operation);
    Typed(&**fabric).put(&key, &answer, Expect::Any).await.unwrap();
}

/// Connects as the site with `secret`; the proof that control gave, and the connection.
async fn connect(
    directory: &Path,
    operation: OperationId,
    secret: &TunnelSecret,
) -> Result<Lines, String> {
    let stream = socket::connect(&directory.join("tunnel.sock")).await.unwrap();
    let mut lines = Framed::new(stream, LinesCodec::new());
    let target = Target::sole(fra());
    let nonce = "mine".to_owned();
    let hello = TunnelHello { version: TUNNEL_VERSION, operation, target: target.clone(), nonce };
    send(&mut lines, &hello).await?;
    match receive(&mut lines).await? {
        TunnelWelcome::Refused { reason } => Err(reason),
        TunnelWelcome::Proof { nonce, proof } => {
            let about = (operation, &target);
            if !secret.verify(TunnelEnd::Control, about, "mine", &proof) {
                return Err("not control".to_owned());
            }
            let proof = secret.prove(TunnelEnd::Site, about, &nonce);
            send(&mut lines, &TunnelProof { proof }).await?;
            Ok(lines)
        }
    }
}

#[tokio::test]
async fn a_tunnel_is_for_who_has_the_secret_and_once() {
    let directory = tempfile::tempdir().unwrap();
    let fabric: SharedFabric = Arc::new(Embedded::open(&directory.path().join("fabric")).unwrap());
    leased(&fabric).await;
    let control = Control::start(directory.path(), &fabric).await;
    let sites = BTreeSet::from([fra()]);
    let mut openings = control.tunnels.open(TunnelPurpose::Logs, &sites).await.unwrap();
    let opening = openings.remove(&fra()).unwrap();
    let Order { operation, task: Task::OpenTunnel(secret) } = order(&fabric).await;

    let wrong = TunnelSecret::new([0; 32]);
    assert_eq!(connect(directory.path(), operation, &wrong).await.err().unwrap(), "not control");
    let other = OperationId::new(1, 1);
    let refused = connect(directory.path(), other, &secret).await.err().unwrap();
    assert!(refused.contains("nobody waits"), "{refused}");
    let mut lines = connect(directory.path(), operation, &secret).await.unwrap();
    let mut tunnel = opening.wait().await.unwrap();
    let again = connect(directory.path(), operation, &secret).await.err().unwrap();
    assert!(again.contains("nobody waits"), "{again}");

    tunnel.ask(&TunnelQuestion::Workloads).await.unwrap();
    assert_eq!(receive(&mut lines).await, Ok(TunnelQuestion::Workloads));
    send(&mut lines, &[1, 2]).await.unwrap();
    assert_eq!(tunnel.next::<Vec<u8>>().await, Some(Ok(vec![1, 2])));
    drop(lines);
    assert_eq!(tunnel.next::<Vec<u8>>().await, None);
    answer(&fabric, operation, AnswerState::Applied).await;
    let row = control.row(|row| row.outcome.state == OperationState::Complete).await;
    assert_eq!(row.operation, operation);
    // Nothing of it is left but the record.
    for prefix in [keys::ORDERS, keys::ANSWERS] {
        while !fabric.list(prefix).await.unwrap().documents.is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    // A site that says why it can't is believed at once.
    let mut openings = control.tunnels.open(TunnelPurpose::Logs, &sites).await.unwrap();
    let opening = openings.remove(&fra()).unwrap();
    let Order { operation, .. } = order(&fabric).await;
    answer(&fabric, operation, AnswerState::Failed { reason: "no descriptors".into() }).await;
    assert_eq!(opening.wait().await.err().unwrap(), "no descriptors");
    assert!(control.tunnels.awaited.lock().is_empty());
    control.kill().await;
}

#[tokio::test]
async fn an_operation_ends_by_a_clock_that_nobody_sets() {
    let directory = tempfile::tempdir().unwrap();
    let fabric: SharedFabric = Arc::new(Embedded::open(&directory.path().join("fabric")).unwrap());
    leased(&fabric).await;
    let control = Control::start(directory.path(), &fabric).await;
    let id = OperationId::new(now_ms(), 1);
    let task = Task::OpenTunnel(TunnelSecret::new([1; 32]));
    let tasks = BTreeMap::from([(Target::sole(fra()), task)]);
    let kind = OperationKind::Tunnel(TunnelPurpose::Logs);
    let limit = Duration::from_secs(60);
    let mut outcome = control.operations.start((id, kind), tasks, limit).await.unwrap();
    order(&fabric).await;
    // The wall clock, as if it had been set back by as much, says that no time has passed.
    tokio::time::pause();
    tokio::time::advance(limit).await;
    tokio::time::resume();
    let ended = outcome.wait_for(|it| it.state != OperationState::Running);
    let ended = tokio::time::timeout(Duration::from_secs(20), ended).await.unwrap();
    assert_eq!(ended.unwrap().state, OperationState::Expired);
    control.kill().await;
}

#[tokio::test]
async fn operations_outlive_control() {
    let directory = tempfile::tempdir().unwrap();
    let fabric: SharedFabric = Arc::new(Embedded::open(&directory.path().join("fabric")).unwrap());
    leased(&fabric).await;
    let start = async |control: &Control, number: u32, limit: Duration| {
        let id = OperationId::new(now_ms(), number);
        let task = Task::OpenTunnel(TunnelSecret::new([1; 32]));
        let tasks = BTreeMap::from([(Target::sole(fra()), task)]);
        let kind = OperationKind::Tunnel(TunnelPurpose::Logs);
        control.operations.start((id, kind), tasks, limit).await.unwrap();
        id
    };
    let control = Control::start(directory.path(), &fabric).await;
    let answered = start(&control, 1, Duration::from_secs(600)).await;
    let late = start(&control, 2, Duration::from_millis(1)).await;
    let row = control
        .row(|row| row.operation == late && row.outcome.state != OperationState::Running)
        .await;
    assert_eq!(row.outcome.state, OperationState::Expired);
    assert_eq!(row.outcome.nodes[0].state, NodeState::TimedOut);
    control.kill().await;

    // Answers come while control is away: one counts, and one is too late for anything.
    answer(&fabric, answered, AnswerState::Applied).await;
    answer(&fabric, late, AnswerState::Applied).await;
    let control = Control::start(directory.path(), &fabric).await;
    let row = control
        .row(|row| row.operation == answered && row.outcome.state != OperationState::Running)
        .await;
    assert_eq!(row.outcome.state, OperationState::Complete);
    let late = control.operations.get(late).await.unwrap().unwrap();
    assert_eq!(late.outcome.state, OperationState::Expired);
    assert_eq!(control.operations.list().await.unwrap()[0].operation, late.operation);

    // Old records go, the oldest first.
    let old = Operation {
        id: OperationId::new(1, 0),
        kind: OperationKind::Tunnel(TunnelPurpose::Logs),
        created_ms: 1,
        deadline_ms: 2,
        targets: BTreeSet::new(),
        outcome: Some(Outcome { state: OperationState::Complete, nodes: Vec::new() }),
    };
    for number in 0..250 {
        let id = OperationId::new(1, number);
        let record = Operation { id, ..old.clone() };
        Typed(&*fabric).put(&keys::operation(id), &record, Expect::Any).await.unwrap();
    }
    let newest = start(&control, 3, Duration::from_millis(1)).await;
    control
        .row(|row| row.operation == newest && row.outcome.state == OperationState::Expired)
        .await;
    let kept = loop {
        let kept = control.operations.list().await.unwrap();
        if kept.len() <= 200 {
            break kept;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!(kept.len(), 200);
    assert!(kept.iter().any(|row| row.operation == answered));
    control.kill().await;
}
