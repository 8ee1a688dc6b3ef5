//! Bodies through our coders and through others' decoders.

use std::collections::VecDeque;
use std::io::Read as _;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::header::ACCEPT_ENCODING;
use http::{HeaderMap, Method, Response};
use http_body::{Body, Frame};
use proptest::prelude::*;

use crate::encode::{
    Budget, Coding, Config, DecodeError, DecodeLimits, Decoded, Decoder, Effort, Encoded, Encoder,
    Negotiation, compress, decompress, respond,
};

/// What a body does next; after the last it ends.
#[derive(Debug, Clone)]
enum Next {
    Data(Vec<u8>),
    Wait,
    Trailers,
    Break,
}

struct Script(VecDeque<Next>);

impl Body for Script {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<std::io::Result<Frame<Bytes>>>> {
        match self.0.pop_front() {
            None => Poll::Ready(None),
            Some(Next::Wait) => Poll::Pending,
            Some(Next::Data(data)) => Poll::Ready(Some(Ok(Frame::data(data.into())))),
            Some(Next::Break) => Poll::Ready(Some(Err(std::io::ErrorKind::BrokenPipe.into()))),
            Some(Next::Trailers) => {
                let pairs = [("x-end", "1"), ("content-digest", "sha-256=:abc=:")];
                let header = |(name, value): (&'static str, &'static str)| {
                    (name.parse().unwrap(), value.parse().unwrap())
                };
                let trailers: HeaderMap = pairs.map(header).into_iter().collect();
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }
}

fn encode(script: impl Into<VecDeque<Next>>, coding: Coding) -> Encoded<Script> {
    let memory = Budget::new(1 << 30).encoder(coding).unwrap();
    Encoded::new(Script(script.into()), memory).ok().unwrap()
}

fn decode(
    script: impl Into<VecDeque<Next>>,
    coding: Coding,
    limits: DecodeLimits,
) -> Decoded<Script> {
    let memory = Budget::new(1 << 30).decoder(coding).unwrap();
    Decoded::new(Script(script.into()), memory, limits).ok().unwrap()
}

/// What came out of a body.
#[derive(Debug, Default)]
struct Out {
    bytes: Vec<u8>,
    trailers: Option<HeaderMap>,
    failed: bool,
    /// Lengths of what had come out when it made us wait.
    waits: Vec<usize>,
}

fn drain<B: Body<Data = Bytes> + Unpin>(mut body: B) -> Out {
    let mut out = Out::default();
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        match Pin::new(&mut body).poll_frame(&mut cx) {
            Poll::Pending => out.waits.push(out.bytes.len()),
            Poll::Ready(None) => {
                assert!(body.is_end_stream());
                return out;
            }
            Poll::Ready(Some(Err(_))) => out.failed = true,
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => {
                    assert!(!data.is_empty(), "an empty frame");
                    out.bytes.extend_from_slice(&data);
                }
                Err(frame) => out.trailers = frame.into_trailers().ok(),
            },
        }
    }
}

/// Decoders that are not ours.
fn others(coding: Coding, bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    match coding {
        Coding::Gzip => flate2::read::GzDecoder::new(bytes).read_to_end(&mut plain).map(drop),
        Coding::Brotli => brotli::Decompressor::new(bytes, 512).read_to_end(&mut plain).map(drop),
        Coding::Zstd => zstd::stream::copy_decode(bytes, &mut plain),
    }
    .unwrap();
    plain
}

fn limits() -> DecodeLimits {
    DecodeLimits { max_bytes: 8 << 20, max_ratio: 100, free_bytes: 1 << 20 }
}

/// Text of which some repeats.
fn text() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        Just(b"<div class=\"item\">".to_vec()),
        proptest::collection::vec(any::<u8>(), 0..40),
        (any::<u8>(), 0..5000_usize).prop_map(|(byte, times)| vec![byte; times]),
    ];
    proptest::collection::vec(word, 0..12).prop_map(|words| words.concat())
}

fn coding() -> impl Strategy<Value = Coding> {
    proptest::sample::select(&Coding::ALL[..])
}

/// Cuts at some places, and waits at others.
fn cut(text: &[u8], cuts: &[(proptest::sample::Index, bool)]) -> VecDeque<Next> {
    let mut places: Vec<(usize, bool)> =
        cuts.iter().map(|(index, wait)| (index.index(text.len() + 1), *wait)).collect();
    places.sort_unstable();
    let (mut script, mut from) = (VecDeque::new(), 0);
    for (to, wait) in places {
        script.push_back(Next::Data(text[from..to].to_vec()));
        if wait {
            // Once answered by what is ready, and once by waiting.
            script.extend([Next::Wait, Next::Wait]);
        }
        from = to;
    }
    script.push_back(Next::Data(text[from..].to_vec()));
    script
}

/// How much can be read of a body's beginning.
fn readable(coding: Coding, beginning: &[u8]) -> usize {
    let mut decoder = Decoder::new(coding, limits()).unwrap();
    let mut input = Bytes::copy_from_slice(beginning);
    let (mut buffer, mut plain) = (vec![0; 4096], 0);
    loop {
        match decoder.step(&mut input, &mut buffer).unwrap() {
            0 => return plain,
            written => plain += written,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// However a body is cut and held up, others decode what we encode, we decode what we encode,
    /// and whenever it waits, everything so far can be read.
    #[test]
    fn round_trips(
        coding in coding(),
        text in text(),
        cuts in proptest::collection::vec(any::<(proptest::sample::Index, bool)>(), 0..8),
        back in proptest::collection::vec(any::<(proptest::sample::Index, bool)>(), 0..8),
    ) {
        let script = cut(&text, &cuts);
        let mut given = Vec::new();
        let mut so_far = 0;
        for next in &script {
            match next {
                Next::Data(data) => so_far += data.len(),
                _ => given.push(so_far),
            }
        }
        let encoded = drain(encode(script, coding));
        prop_assert!(!encoded.failed);
        prop_assert_eq!(&others(coding, &encoded.bytes), &text);
        let mut readable: Vec<usize> = encoded.waits.iter()
            .map(|&end| readable(coding, &encoded.bytes[..end]))
            .collect();
        readable.dedup();
        given.dedup();
        prop_assert_eq!(readable, given);
        let decoded = drain(decode(cut(&encoded.bytes, &back), coding, limits()));
        prop_assert!(!decoded.failed);
        prop_assert_eq!(decoded.bytes, text);
    }

    #[test]
    fn whole_bodies_round_trip(coding in coding(), text in text(), store in any::<bool>()) {
        let effort = if store { Effort::Store } else { Effort::Stream };
        let encoded = compress(coding, effort, &text).unwrap();
        prop_assert_eq!(&others(coding, &encoded), &text);
        prop_assert_eq!(&decompress(coding, limits(), encoded).unwrap(), &text);
    }

    #[test]
    fn nonsense_is_refused(coding in coding(), bytes in proptest::collection::vec(any::<u8>(), 1..400)) {
        // A decoder must end, and in what random bytes decode to it can't go far.
        if let Ok(plain) = decompress(coding, limits(), bytes.clone().into()) {
            prop_assert_eq!(plain, others(coding, &bytes));
        }
    }

    #[test]
    fn damage_is_found_or_harmless(
        coding in coding(),
        text in text(),
        at in any::<proptest::sample::Index>(),
        bit in 0..8_u8,
    ) {
        let mut encoded = compress(coding, Effort::Stream, &text).unwrap().to_vec();
        let at = at.index(encoded.len());
        encoded[at] ^= 1 << bit;
        let _ = decompress(coding, limits(), encoded.into());
    }
}

#[test]
fn a_body_that_ends_early_is_refused() {
    let text = b"The quick brown fox jumps over the lazy dog. ".repeat(20);
    for coding in Coding::ALL {
        let encoded = compress(coding, Effort::Stream, &text).unwrap();
        for end in 1..encoded.len() {
            let error = decompress(coding, limits(), encoded.slice(..end)).unwrap_err();
            assert_eq!(error, DecodeError::Truncated(coding), "{end} of {}", encoded.len());
            let script = [Next::Data(encoded[..end].to_vec())];
            assert!(drain(decode(script, coding, limits())).failed, "{end}");
        }
        let behind = [&encoded[..], b"tail"].concat();
        assert!(decompress(coding, limits(), behind.into()).is_err(), "{coding:?}");
        // Some servers send nothing at all and call it gzip.
        assert!(decompress(coding, limits(), Bytes::new()).unwrap().is_empty());
    }
}

#[test]
fn bodies_of_several_members_are_one() {
    for coding in [Coding::Gzip, Coding::Zstd] {
        let members = ["one ", "", "two"]
            .map(|text| compress(coding, Effort::Stream, text.as_bytes()).unwrap());
        let script: VecDeque<Next> =
            members.iter().map(|member| Next::Data(member.to_vec())).collect();
        let decoded = drain(decode(script, coding, limits()));
        assert_eq!((decoded.bytes, decoded.failed), (b"one two".to_vec(), false));
        assert_eq!(decompress(coding, limits(), members.concat().into()).unwrap(), "one two");
    }
}

#[test]
fn a_bomb_stops_at_its_limits() {
    let limits = DecodeLimits { max_bytes: 4 << 20, max_ratio: 100, free_bytes: 100 << 10 };
    for coding in Coding::ALL {
        let mut encoder = Encoder::new(coding, Effort::Store).unwrap();
        for _ in 0..64 {
            encoder.write(&vec![b'0'; 1 << 20]).unwrap();
        }
        encoder.finish().unwrap();
        let bomb = encoder.take();
        let out = drain(decode([Next::Data(bomb.to_vec())], coding, limits));
        assert!(out.failed);
        assert!(out.bytes.len() as u64 <= limits.max_bytes, "{}", out.bytes.len());
        assert_eq!(decompress(coding, limits, bomb).unwrap_err(), DecodeError::TooLarge(coding));
    }
    // Neither limit is one too low.
    let exact = DecodeLimits { max_bytes: 3000, max_ratio: 0, free_bytes: 3000 };
    for coding in Coding::ALL {
        let body = |len| compress(coding, Effort::Stream, &vec![b' '; len]).unwrap();
        assert_eq!(decompress(coding, exact, body(3000)).unwrap().len(), 3000);
        assert!(decompress(coding, exact, body(3001)).is_err());
    }
}

#[test]
fn a_zstd_window_larger_than_the_web_allows_is_refused() {
    let mut encoder = zstd::stream::raw::Encoder::new(1).unwrap();
    encoder.set_parameter(zstd::zstd_safe::CParameter::WindowLog(24)).unwrap();
    let mut writer = zstd::stream::zio::Writer::new(Vec::new(), encoder);
    std::io::Write::write_all(&mut writer, &vec![0; 1 << 20]).unwrap();
    writer.finish().unwrap();
    let body = writer.into_inner().0.into();
    assert_eq!(
        decompress(Coding::Zstd, limits(), body).unwrap_err(),
        DecodeError::Malformed(Coding::Zstd)
    );
}

#[test]
fn trailers_pass_without_digests_and_errors_are_not_covered_up() {
    let text = b"text ".repeat(1000);
    for coding in Coding::ALL {
        let script = [Next::Data(text.clone()), Next::Wait, Next::Trailers];
        let encoded = drain(encode(script, coding));
        assert_eq!(others(coding, &encoded.bytes), text);
        let trailers = encoded.trailers.unwrap();
        assert!(trailers.contains_key("x-end") && !trailers.contains_key("content-digest"));

        let script = [Next::Data(encoded.bytes), Next::Trailers];
        let decoded = drain(decode(script, coding, limits()));
        assert_eq!(decoded.bytes, text);
        assert_eq!(decoded.trailers.unwrap().len(), 1);

        let script = [Next::Data(text.clone()), Next::Break];
        let broken = drain(encode(script, coding));
        assert!(broken.failed);
        // What came out is no whole body, so nobody takes it for one.
        let cut = decompress(coding, limits(), broken.bytes.clone().into());
        assert!(broken.bytes.is_empty() || cut.is_err(), "{coding:?}");
    }
}

#[test]
fn a_large_body_gives_way_to_others() {
    // Zeros hardly give any output, so the encoder itself has to stop now and then.
    for coding in Coding::ALL {
        let zeros = Bytes::from(vec![0; 8 << 20]);
        let script = [Next::Data(zeros.to_vec())];
        let encoded = drain(encode(script, coding));
        assert!(encoded.waits.len() >= 8, "{coding:?}: {}", encoded.waits.len());
        assert_eq!(others(coding, &encoded.bytes).len(), zeros.len());
    }
}

#[test]
fn responses_share_one_budget_of_memory() {
    let budget = Budget::new(1 << 20);
    let answer = |method: Method, accepted: &str, script: Vec<Next>| {
        let pair = (ACCEPT_ENCODING, accepted.parse().unwrap());
        let negotiation = Negotiation::begin(&method, &mut HeaderMap::from_iter([pair]));
        let response = Response::builder()
            .header("content-type", "text/plain")
            .header("etag", "\"x\"")
            .body(Script(script.into()))
            .unwrap();
        respond(&negotiation, &Config::default(), &budget, response)
    };
    let text = b"text ".repeat(400);
    let script = || vec![Next::Data(text.clone())];
    let first = answer(Method::GET, "zstd", script());
    assert_eq!((first.headers()["content-encoding"].to_str().unwrap(), budget.left()), ("zstd", 0));
    // Nothing left: the next one goes out plain, and says that it could have been otherwise.
    let second = answer(Method::GET, "gzip", script());
    assert!(!second.headers().contains_key("content-encoding"));
    assert_eq!(second.headers()["etag"], "\"x\"");
    assert_eq!(second.headers()["vary"], "accept-encoding");
    assert_eq!(drain(second.into_body()).bytes, text);
    // A head needs no memory.
    let head = answer(Method::HEAD, "br", vec![]);
    assert_eq!(head.headers()["content-encoding"], "br");
    assert!(drain(head.into_body()).bytes.is_empty());
    assert_eq!(others(Coding::Zstd, &drain(first.into_body()).bytes), text);
    assert_eq!(budget.left(), 1 << 20);
}
