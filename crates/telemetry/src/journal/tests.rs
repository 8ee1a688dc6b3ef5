use super::*;

fn share(owner: &str) -> Share {
    Share::new("output", Some(owner)).unwrap()
}

/// A journal whose writer runs.
struct World {
    directory: tempfile::TempDir,
    journal: Journal,
    token: CancellationToken,
    writing: tokio::task::JoinHandle<()>,
}

impl World {
    fn new(limit: u64) -> Self {
        Self::at(tempfile::tempdir().unwrap(), limit)
    }

    fn at(directory: tempfile::TempDir, limit: u64) -> Self {
        let (journal, writer) = Journal::open(&directory.path().join("journal"), limit).unwrap();
        let token = CancellationToken::new();
        let writing = tokio::spawn(writer.run(token.clone()));
        Self { directory, journal, token, writing }
    }

    /// Ends the writer; everything has been written then.
    async fn end(self) -> tempfile::TempDir {
        self.token.cancel();
        self.writing.await.unwrap();
        self.directory
    }

    async fn reopened(self, limit: u64) -> Self {
        Self::at(self.end().await, limit)
    }

    fn add(&self, owner: &str, text: &str) {
        self.journal.append(&share(owner), text.as_bytes());
    }

    /// Waits until everything added so far can be read.
    async fn written(&self) {
        let last = self.journal.shared.pending().last;
        let mut published = self.journal.shared.published.subscribe();
        published.wait_for(|it| *it >= last).await.unwrap();
    }
}

fn query(after: u64, limit: Option<usize>, follow: bool) -> Query {
    Query { shares: Box::new(|_| true), matches: Box::new(|_| true), after, limit, follow }
}

/// All entries up to where the answer is current.
async fn until_current(entries: &mut Entries) -> (Vec<Entry>, u64) {
    let mut all = Vec::new();
    loop {
        match entries.next().await.unwrap() {
            Some(Step::Entry(entry)) => all.push(entry),
            Some(Step::Current(sequence)) => return (all, sequence),
            Some(Step::Reading) => {}
            None => panic!("no end"),
        }
    }
}

async fn everything(journal: &Journal) -> Vec<Entry> {
    until_current(&mut journal.query(query(0, None, false))).await.0
}

fn texts(entries: &[Entry]) -> Vec<String> {
    let text = |entry: &Entry| match &entry.body {
        Body::Line(line) => String::from_utf8(line.clone()).unwrap(),
        Body::Dropped(count) => format!("{count} dropped"),
    };
    entries.iter().map(text).collect()
}

/// Lines and dropped lines of an owner.
fn counts(entries: &[Entry], owner: &str) -> (u64, u64) {
    let of = entries.iter().filter(|entry| entry.share.owner() == Some(owner));
    of.fold((0, 0), |(lines, dropped), entry| match entry.body {
        Body::Line(_) => (lines + 1, dropped),
        Body::Dropped(count) => (lines, dropped + count),
    })
}

#[tokio::test]
async fn lines_of_all_shares_come_back_in_order() {
    let world = World::new(1 << 20);
    for number in 0..300 {
        world.add(["a", "b", "c"][number % 3], &number.to_string());
    }
    world.written().await;
    let all = everything(&world.journal).await;
    let wanted: Vec<String> = (0..300).map(|number| number.to_string()).collect();
    assert_eq!(texts(&all), wanted);
    assert!(all.is_sorted_by_key(|entry| entry.sequence));

    // The last that match, and what comes after a place.
    let mut few = query(0, Some(2), false);
    few.shares = Box::new(|share| share.owner() == Some("b"));
    few.matches = Box::new(|line| line.starts_with(b"1"));
    let (last, current) = until_current(&mut world.journal.query(few)).await;
    assert_eq!(texts(&last), ["196", "199"]);
    assert!(current >= all[299].sequence);
    let after = query(all[297].sequence, None, false);
    let (rest, _) = until_current(&mut world.journal.query(after)).await;
    assert_eq!(texts(&rest), ["298", "299"]);
}

#[tokio::test]
async fn followers_get_each_line_once_also_of_shares_to_come() {
    let world = World::new(1 << 20);
    world.add("a", "old");
    world.written().await;
    let mut all = world.journal.query(query(0, None, true));
    let mut new = world.journal.query(query(0, Some(0), true));
    assert_eq!(texts(&until_current(&mut all).await.0), ["old"]);
    assert!(until_current(&mut new).await.0.is_empty());
    for (owner, text) in [("a", "1"), ("b", "2"), ("a", "3")] {
        world.add(owner, text);
        for entries in [&mut all, &mut new] {
            let Some(Step::Entry(entry)) = entries.next().await.unwrap() else { panic!("no line") };
            assert_eq!(texts(&[entry]), [text]);
        }
    }
}

#[tokio::test]
async fn who_reads_long_without_finding_anything_says_so() {
    let world = World::new(1 << 20);
    for text in ["1", "2"] {
        world.add("a", text);
    }
    world.written().await;
    tokio::time::pause();
    for limit in [None, Some(9)] {
        let (go_on, waits) = std::sync::mpsc::channel();
        let mut slow = query(0, limit, false);
        slow.matches = Box::new(move |line| line == b"2" && waits.recv().is_ok());
        let mut entries = world.journal.query(slow);
        for _ in 0..3 {
            let (step, ()) = tokio::join!(entries.next(), tokio::time::advance(2 * query::QUIET));
            assert_eq!(step.unwrap(), Some(Step::Reading));
        }
        // Once for the search and once for the answer.
        for _ in 0..2 {
            go_on.send(()).unwrap();
        }
        assert_eq!(texts(&until_current(&mut entries).await.0), ["2"]);
        assert_eq!(entries.next().await.unwrap(), None);
    }
}

#[tokio::test]
async fn who_writes_much_pushes_out_only_itself_and_the_drop_is_counted() {
    let limit = 8 * MIN_SEGMENT;
    let mut world = World::new(limit);
    for number in 0..100 {
        world.add("quiet", &format!("quiet {number}"));
    }
    world.written().await;
    let mut slow = world.journal.query(query(0, None, true));
    assert!(matches!(slow.next().await.unwrap(), Some(Step::Entry(_))));

    let line = "x".repeat(1000);
    for _ in 0..20 {
        for _ in 0..100 {
            world.add("noisy", &line);
        }
        world.written().await;
    }
    assert!(world.journal.size() <= limit);
    for _ in 0..2 {
        let all = everything(&world.journal).await;
        assert_eq!(counts(&all, "quiet"), (100, 0));
        let (lines, dropped) = counts(&all, "noisy");
        assert!(lines > 100 && dropped > 100, "{lines} {dropped}");
        assert_eq!(lines + dropped, 2000);
        // What is known of drops outlives the process.
        world = world.reopened(limit).await;
    }

    // A reader that was too slow sees how much it has missed.
    let (mut seen, mut missed) = (1, 0);
    while seen + missed < 2100 {
        match slow.next().await.unwrap() {
            Some(Step::Entry(Entry { body: Body::Dropped(count), .. })) => missed += count,
            Some(Step::Entry(_)) => seen += 1,
            Some(Step::Current(_) | Step::Reading) => {}
            None => break,
        }
    }
    assert_eq!(seen + missed, 2100);
    assert!(missed > 0);
}

#[tokio::test]
async fn what_the_writer_does_not_keep_up_with_is_counted_in_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let (journal, writer) = Journal::open(directory.path(), 64 << 20).unwrap();
    let line = vec![b'x'; 64 << 10];
    for _ in 0..40 {
        journal.append(&share("noisy"), &line);
    }
    journal.append(&share("quiet"), b"here");
    journal.append(&share("quiet"), b"a line\nis one line");
    journal.append(&share("quiet"), &vec![b'x'; MAX_LINE + 1]);
    journal.count_dropped(&share("quiet"), 5);
    let token = CancellationToken::new();
    token.cancel();
    writer.run(token).await;
    let all = everything(&journal).await;
    let (lines, dropped) = counts(&all, "noisy");
    assert!(lines > 10 && dropped > 10, "{lines} {dropped}");
    assert_eq!(lines + dropped, 40);
    assert_eq!(counts(&all, "quiet"), (1, 7));
    assert!(all.is_sorted_by_key(|entry| entry.sequence));
}

#[tokio::test]
async fn a_torn_line_is_taken_back_and_damage_is_stepped_over() {
    let world = World::new(1 << 20);
    world.add("a", "1");
    world.add("a", "2");
    let directory = world.end().await;
    let files: Vec<PathBuf> = std::fs::read_dir(directory.path().join("journal/output.a"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    let [file] = files.as_slice() else { panic!("{files:?}") };
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    let mut torn = std::fs::OpenOptions::new().append(true).open(file).unwrap();
    torn.write_all(b"\0\0\0\nno number\n99999999999999999 half a li").unwrap();
    let world = World::at(directory, 1 << 20);
    world.add("a", "3");
    world.written().await;
    let all = everything(&world.journal).await;
    assert_eq!(texts(&all), ["1", "2", "3"]);
    assert!(all.is_sorted_by_key(|entry| entry.sequence));
}

#[tokio::test]
async fn a_disk_that_refuses_is_named_and_what_it_refused_is_counted() {
    let world = World::new(1 << 20);
    let path = world.directory.path().join("journal/output.a");
    std::fs::write(&path, "in the way").unwrap();
    world.add("a", "1");
    let mut problem = world.journal.problem();
    let words = problem.wait_for(Option::is_some).await.unwrap().clone().unwrap();
    assert!(words.contains("journal") && words.contains("can't be written"), "{words}");
    std::fs::remove_file(&path).unwrap();
    world.add("a", "2");
    problem.wait_for(Option::is_none).await.unwrap();
    assert_eq!(counts(&everything(&world.journal).await, "a"), (1, 1));
}

#[test]
fn shares_have_plain_names() {
    let share = Share::new("access", Some("shop")).unwrap();
    assert_eq!(Share::parse(&share.to_string()), Some(share));
    assert_eq!(Share::new("event", None).unwrap().owner(), None);
    for (kind, owner) in [("", None), ("a.b", None), ("a", Some("..")), ("a", Some("b/c"))] {
        assert_eq!(Share::new(kind, owner), None);
    }
}
