//! Faults, and what becomes of a push and of what is live when they happen.
//!
//! Every row of the tables is a [`Fault`]: what happens, when, and what is live afterwards. After
//! each the same is checked: one release is live, at every site and in git, it is the one that the
//! row says, nothing of another is left running or on disk, and the next push goes live.

mod disk;
mod frozen;
mod gate;
mod kills;
mod scene;
mod wire;

use selvedge_model::Stage;

use self::scene::Scene;
use crate::harness::clients::Clients;
use crate::harness::repository::Pushed;

/// When a fault happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    Receive,
    Validate,
    Build,
    Test,
    Publish,
    Plan,
    Warm,
    Activate,
    Verify,
    /// Verified, and the records are brought up to date.
    Settle,
}

impl Moment {
    const ALL: [Self; 10] = [
        Self::Receive,
        Self::Validate,
        Self::Build,
        Self::Test,
        Self::Publish,
        Self::Plan,
        Self::Warm,
        Self::Activate,
        Self::Verify,
        Self::Settle,
    ];

    fn name(self) -> &'static str {
        if self == Self::Settle { "settle" } else { self.stage().name() }
    }

    fn stage(self) -> Stage {
        match self {
            Self::Receive => Stage::Receive,
            Self::Validate => Stage::Validate,
            Self::Build => Stage::Build,
            Self::Test => Stage::Test,
            Self::Publish => Stage::Publish,
            Self::Plan => Stage::Plan,
            Self::Warm => Stage::Warm,
            Self::Activate => Stage::Activate,
            Self::Verify | Self::Settle => Stage::Verify,
        }
    }

    /// Whether control's git can be stopped there.
    fn is_gated(self) -> bool {
        matches!(
            self,
            Self::Receive | Self::Validate | Self::Publish | Self::Activate | Self::Settle
        )
    }
}

/// A process of the box.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Process {
    Control,
    /// One agent of three.
    Agent,
    /// All others end with it.
    Supervisor,
}

/// What happens.
#[derive(Debug, Clone, Copy)]
enum Inject {
    /// A process gets SIGKILL while a push is at the moment.
    Kill(Process, Moment),
    /// A process stands still from the moment on, until the others have noticed.
    Freeze(Process, Moment),
    /// An agent can't reach the fabric, and starts so.
    Disconnect,
    /// Another program has the database locked from the moment on, for longer than control waits.
    Lock(Moment),
    /// A blob of an earlier release is damaged, and a rollback needs it.
    DamagedBlob,
    /// Every site's ledger is cut, filled with junk or emptied while nothing runs.
    DamagedLedgers,
    /// What sites have unpacked is cut or gone while nothing runs.
    DamagedFiles,
    /// The pusher ends in the middle of the upload.
    PusherKilled,
    /// The pusher ends when all is uploaded.
    PusherGone,
    /// The connection ends in the middle of the upload.
    ConnectionCut,
    /// Two pushes to one repository, from the same commit on.
    Race,
    /// Two repositories claim one host at once.
    HostRace,
    /// The token is none.
    WrongToken,
}

/// What is live afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    /// What was live.
    Old,
    /// What was pushed.
    New,
    /// One of them, whole: the moment can't be held.
    Either,
}

/// A row of the tables.
struct Fault {
    name: String,
    inject: Inject,
    expect: Expect,
}

impl Fault {
    fn new(inject: Inject, expect: Expect) -> Self {
        Self { name: format!("{inject:?}"), inject, expect }
    }
}

/// Runs the rows one after the other in one box, and at last a push without a fault. Clients watch
/// all the while; what they must have seen is the caller's to say.
async fn run(scene: &mut Scene, faults: &[Fault]) {
    for (turn, fault) in faults.iter().enumerate() {
        let old = scene.release.clone();
        let pushed = inject(scene, fault, turn).await;
        let live = scene.check(&fault.name).await;
        match fault.expect {
            Expect::Old => assert_eq!(live, old, "{}: what was live is not", fault.name),
            Expect::New => assert_ne!(live, old, "{}: what was pushed is not live", fault.name),
            Expect::Either => {}
        }
        let acknowledged = pushed.is_some_and(|pushed| pushed.ok);
        assert!(!acknowledged || live != old, "{}: what was acknowledged is not live", fault.name);
        scene.follow_main().await;
        scene.release = live;
    }
    scene.change(None).await;
    scene.repository.push_live(&scene.planet).await;
    let live = scene.check("the push after all").await;
    assert_ne!(live, scene.release);
}

/// Makes it happen; returns how the push ended, where there was one.
async fn inject(scene: &mut Scene, fault: &Fault, turn: usize) -> Option<Pushed> {
    let name = &fault.name;
    match fault.inject {
        Inject::Kill(process, moment) => {
            Some(kills::kill(scene, name, process, moment, turn).await)
        }
        Inject::Freeze(process, moment) => {
            Some(frozen::freeze(scene, name, process, moment, turn).await)
        }
        Inject::Disconnect => Some(frozen::disconnect(scene, name, turn).await),
        Inject::Lock(moment) => Some(disk::lock(scene, moment).await),
        Inject::DamagedBlob => disk::damage_blob(scene).await,
        Inject::DamagedLedgers => disk::damage_ledgers(scene).await,
        Inject::DamagedFiles => disk::damage_unpacked(scene).await,
        Inject::PusherKilled => Some(wire::cut_upload(scene, wire::Cut::Pusher).await),
        Inject::ConnectionCut => Some(wire::cut_upload(scene, wire::Cut::Connection).await),
        Inject::PusherGone => Some(wire::hang_up(scene).await),
        Inject::Race => Some(wire::race(scene).await),
        Inject::HostRace => wire::host_race(scene).await,
        Inject::WrongToken => Some(wire::wrong_token(scene).await),
    }
}

/// Clients of the app, at every site in turn.
fn clients(scene: &Scene) -> Clients {
    Clients::start(&scene.planet, &scene::PAGES, 1, scene::PAUSE)
}
