//! Events through all their forms: request, line, parts of a line, CloudEvent, and back.

#![allow(clippy::unwrap_used)] // helpers of tests are not seen as tests

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};
use tidings_event::{
    Event, EventError, Expression, ExpressionError, Filter, Frame, FrameView, Index, Limits,
    NamespaceSet, NewEvent, Selected, Stamp, Timestamp, TopicSet, from_cloudevent,
    from_cloudevent_batch, to_cloudevent,
};

/// A frame as the timeline writes it.
fn line(index: u64, events: &[NewEvent<'_>]) -> Bytes {
    let stamp = Stamp {
        time: &Timestamp::from_unix_micros(1_000_000).text(),
        id: "given",
        node: "n1",
        source: "api",
    };
    let mut out = format!("{{\"Index\":{index},\"Events\":[").into_bytes();
    for (at, event) in events.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.extend_from_slice(format!("{{\"Index\":{index},").as_bytes());
        event
            .push_body(&stamp, &Limits::default(), &mut out)
            .unwrap();
    }
    out.extend_from_slice(b"]}\n");
    out.into()
}

fn event(json: &str) -> NewEvent<'_> {
    let event = NewEvent::parse(json.as_bytes()).unwrap();
    event.check(&Limits::default()).unwrap();
    event
}

fn refused(json: &str) -> EventError {
    match NewEvent::parse(json.as_bytes()) {
        Ok(event) => event.check(&Limits::default()).unwrap_err(),
        Err(error) => error,
    }
}

#[test]
fn refusals_say_what_is_wrong_and_what_would_be_right() {
    for (json, code, part) in [
        (r#"{"Type":"A"}"#, "field_missing", "no Topic"),
        (r#"{"Topic":"T"}"#, "field_missing", "no Type"),
        (r#"{"Topic":"a:b","Type":"A"}"#, "field_text", "colon"),
        (r#"{"Topic":"*","Type":"A"}"#, "field_text", "wildcard"),
        (
            r#"{"Topic":"T","Type":"A","Namespace":"*"}"#,
            "field_text",
            "wildcard",
        ),
        (
            r#"{"Topic":"T","Type":"A","Key":"a\nb"}"#,
            "field_text",
            "control character",
        ),
        (
            r#"{"Topic":"T","Type":"A","Payload":[1]}"#,
            "payload_kind",
            "an array",
        ),
        (
            r#"{"Topic":"T","Type":"A","Payload":"x"}"#,
            "payload_kind",
            "a string",
        ),
        (
            r#"{"Topic":"T","Type":"A","Payload":1}"#,
            "payload_kind",
            "a number",
        ),
        (
            r#"{"Topic":"T","Type":"A","Payload":true}"#,
            "payload_kind",
            "a boolean",
        ),
        (
            r#"{"Topic":"T","Type":"A","Id":""}"#,
            "field_missing",
            "leave Id out",
        ),
        (
            r#"{"Topic":"T","Type":"A","payload":{}}"#,
            "malformed_json",
            "unknown field `payload`",
        ),
        (
            r#"{"Topic":"T","Type":"A","Time":"today"}"#,
            "malformed_json",
            "RFC 3339",
        ),
        (r#"{"Topic":"T","Type":5}"#, "malformed_json", "a string"),
        (r#"{"Topic":"T","Type":"A""#, "malformed_json", "EOF"),
    ] {
        let error = refused(json);
        assert_eq!(error.code(), code, "{json}: {error}");
        assert!(error.to_string().contains(part), "{json}: {error}");
    }
}

#[test]
fn limits_hold_on_both_sides() {
    let limits = Limits {
        name_bytes: 4,
        key_bytes: 3,
        filter_keys: 2,
        id_bytes: 5,
        ..Limits::default()
    };
    let check = |json: &str| {
        NewEvent::parse(json.as_bytes())
            .unwrap()
            .check(&limits)
            .map_err(|e| e.code())
    };
    assert_eq!(
        check(
            r#"{"Topic":"abcd","Type":"abcd","Key":"abc","Namespace":"abcd","Id":"abcde","FilterKeys":["abc",""]}"#
        ),
        Ok(())
    );
    for json in [
        r#"{"Topic":"abcde","Type":"A"}"#,
        r#"{"Topic":"T","Type":"abcde"}"#,
        r#"{"Topic":"T","Type":"A","Key":"abcd"}"#,
        r#"{"Topic":"T","Type":"A","Namespace":"abcde"}"#,
        r#"{"Topic":"T","Type":"A","Id":"abcdef"}"#,
        r#"{"Topic":"T","Type":"A","FilterKeys":["abcd"]}"#,
    ] {
        assert_eq!(check(json), Err("field_too_long"), "{json}");
    }
    assert_eq!(
        check(r#"{"Topic":"T","Type":"A","Namespace":"","FilterKeys":["","",""]}"#),
        Err("too_many_filter_keys")
    );

    let stamp = Stamp {
        time: &Timestamp::default().text(),
        id: "i",
        node: "n",
        source: "s",
    };
    let one = event(r#"{"Topic":"T","Type":"A"}"#);
    let mut out = b"before".to_vec();
    one.push_body(&stamp, &Limits::default(), &mut out).unwrap();
    let size = out.len() - 6;
    let at_limit = Limits {
        event_bytes: size,
        ..Limits::default()
    };
    let below = Limits {
        event_bytes: size - 1,
        ..Limits::default()
    };
    let mut out = b"before".to_vec();
    assert!(one.push_body(&stamp, &at_limit, &mut out).is_ok());
    let mut out = b"before".to_vec();
    assert_eq!(
        one.push_body(&stamp, &below, &mut out).unwrap_err().code(),
        "event_too_large"
    );
    assert_eq!(out, b"before");
}

/// What comes behind the entry that is one too many is not even looked at: here it is no JSON.
#[test]
fn g9_a_list_is_given_up_at_the_first_entry_that_is_one_too_many() {
    let limits = Limits {
        transaction_events: 2,
        filter_keys: 2,
        ..Limits::default()
    };
    let line = |json: &str| NewEvent::parse_line(json.as_bytes(), &limits).map(|_| ());
    let transaction =
        |json: &str| NewEvent::parse_transaction(json.as_bytes(), &limits).map(|_| ());
    let batch = |json: &str| from_cloudevent_batch(json.as_bytes(), &limits).map(|_| ());
    for (refused, code) in [
        (line(r#"{"Events":[{},{},{#"#), "too_many_events"),
        (transaction(r#"{"Events":[{},{},{#"#), "too_many_events"),
        (batch(r#"[{},{},{#"#), "too_many_events"),
        (line(r#"{"FilterKeys":["","","","#), "too_many_filter_keys"),
        (
            line(r#"{"Events":[{"FilterKeys":["","","","#),
            "too_many_filter_keys",
        ),
    ] {
        assert_eq!(refused.unwrap_err().code(), code);
    }
    let attributes: Vec<String> = (0..300).map(|n| format!("\"a{n}\":1")).collect();
    let many = from_cloudevent(format!("{{{},#", attributes.join(",")).as_bytes())
        .unwrap_err()
        .to_string();
    assert!(many.contains("more than 256 attributes"), "{many}");
}

#[test]
fn lines_of_a_stream_are_transactions_or_bare_events() {
    let limits = Limits {
        transaction_events: 2,
        ..Limits::default()
    };
    let count = |json: &str| {
        NewEvent::parse_line(json.as_bytes(), &limits)
            .map(|e| e.len())
            .map_err(|e| e.code())
    };
    assert_eq!(count(r#"{"Topic":"T","Type":"A"}"#), Ok(1));
    assert_eq!(
        count(
            r#"{"Index":3,"Events":[{"Index":3,"Topic":"T","Type":"A"},{"Topic":"T","Type":"B"}]}"#
        ),
        Ok(2)
    );
    assert_eq!(count(r#"{"Events":[]}"#), Err("no_events"));
    assert_eq!(count(r#"{"Events":[{},{},{}]}"#), Err("too_many_events"));
    assert_eq!(
        count(r#"{"Topic":"T","Events":[{}]}"#),
        Err("malformed_json")
    );
}

#[test]
fn payloads_come_out_as_they_went_in() {
    let json = r#"{"Topic":"T","Type":"A","Payload":{"big":18446744073709551615,"e":1e+21,"f":2.0,"u":"\u00e9\/","t":"a b"}}"#;
    let line = line(1, &[event(json)]);
    let view = FrameView::parse(&line).unwrap();
    assert_eq!(
        view.events()[0].payload(),
        r#"{"big":18446744073709551615,"e":1e+21,"f":2.0,"u":"\u00e9\/","t":"a b"}"#
    );
    let frame: Frame = serde_json::from_slice(&line).unwrap();
    assert_eq!(frame.events[0].payload.get(), view.events()[0].payload());
}

fn filter(topics: &[&str], namespace: Option<&str>, expression: Option<&str>) -> Filter {
    Filter::new(
        TopicSet::parse(topics.iter().copied()).unwrap(),
        NamespaceSet::parse(namespace),
        expression.map(|text| Expression::compile(text).unwrap()),
    )
}

#[test]
fn filters_follow_nomads_rules() {
    let web = r#"{"Topic":"Job","Type":"A","Key":"web"}"#;
    let alloc = r#"{"Topic":"Allocation","Type":"A","Key":"a1","FilterKeys":["web","d1"]}"#;
    let eval = r#"{"Topic":"Evaluation","Type":"A","Key":"e1","FilterKeys":["web",""]}"#;
    let node = r#"{"Topic":"Node","Type":"A","Key":"n1","Namespace":""}"#;
    let other = r#"{"Topic":"Job","Type":"A","Key":"web","Namespace":"other"}"#;
    for (topics, namespace, expected) in [
        (&[][..], None, "wanE"),
        (&["*"], Some("*"), "wanEo"),
        (&["*"], Some("other"), "no"),
        (&["Job"], None, "w"),
        (&["Job", "Job:none"], None, "w"),
        (&["Job:web"], Some("*"), "wo"),
        (&["*:web"], None, "waE"),
        (&["*:web", "Node"], None, "wanE"),
        (&["Evaluation:"], None, "E"),
        (&["Allocation:d1"], None, "a"),
        (&["job"], None, ""),
        (&["Job:none"], None, ""),
        (&[""], None, ""),
    ] {
        let filter = filter(topics, namespace, None);
        let seen: String = [
            ("w", web),
            ("a", alloc),
            ("n", node),
            ("E", eval),
            ("o", other),
        ]
        .iter()
        .filter(|(_, json)| {
            let line = line(1, &[event(json)]);
            let matches = filter.matches(&FrameView::parse(&line).unwrap().events()[0]);
            let view = FrameView::parse(&line).unwrap();
            assert!(
                !matches || filter.digests().may_match(view.digest()),
                "{topics:?} {json}"
            );
            matches
        })
        .map(|(name, _)| *name)
        .collect();
        assert_eq!(seen, expected, "{topics:?} {namespace:?}");
    }
}

#[test]
fn of_a_frame_only_what_matches_is_let_through_and_once() {
    let events = [
        event(r#"{"Topic":"Job","Type":"A","Key":"web","FilterKeys":["web","x"]}"#),
        event(r#"{"Topic":"Job","Type":"B","Key":"db"}"#),
        event(r#"{"Topic":"Job","Type":"C","Key":"x"}"#),
    ];
    let line = line(9, &events);
    let Selected::Some(part) = filter(&["Job:web", "Job:x"], None, None)
        .select(&line)
        .unwrap()
    else {
        panic!("two of three match");
    };
    let frame: Frame = serde_json::from_slice(&part).unwrap();
    let types: Vec<_> = frame
        .events
        .iter()
        .map(|event: &Event| event.r#type.as_str())
        .collect();
    assert_eq!((frame.index, types), (Index(9), vec!["A", "C"]));
    assert_eq!(
        FrameView::parse(&part).unwrap().events().len(),
        2,
        "the part is a frame as well"
    );
    assert_eq!(
        filter(&["Job"], None, None).select(&line).unwrap(),
        Selected::All
    );
    assert_eq!(
        filter(&["Node"], None, None).select(&line).unwrap(),
        Selected::None
    );
}

#[test]
fn expressions_see_the_whole_event() {
    let json = r#"{"Topic":"Job","Type":"JobRegistered","Key":"web","Namespace":"","FilterKeys":["d1"],"Payload":{"Job":{"Priority":70,"Meta":null,"Ratio":0.5,"Tags":["a","b"],"Big":18446744073709551615}}}"#;
    let line = line(12, &[event(json)]);
    let view = FrameView::parse(&line).unwrap();
    for (text, expected) in [
        (r#"Topic == "Job" && Type.startsWith("Job")"#, true),
        (r#"Payload.Job.Priority > 50"#, true),
        (r#"Payload.Job.Priority > 50.5"#, true),
        (r#"Payload.Job.Priority == 71"#, false),
        (r#"Payload.Job.Ratio < 0.6"#, true),
        (r#""b" in Payload.Job.Tags"#, true),
        (r#"Payload.Job.Tags.exists(t, t == "b")"#, true),
        (r#""d1" in FilterKeys"#, true),
        (r#"Index == 12"#, true),
        (r#"Index >= 13"#, false),
        (r#"Time > "1970-01-01T00:00:00""#, true),
        (r#"Node == "n1" && Source == "api" && Id == "given""#, true),
        (r#"has(Payload.Job.None)"#, false),
        (r#"Payload.None.None == 1"#, false),
        (r#"Payload.Job.Priority == "x""#, false),
        (r#"Key.matches("^w.b$")"#, true),
        (r#"Payload.Job.Meta == null"#, true),
        (r#"matches(Key, "^w.b$") && !Key.matches("x|y")"#, true),
        (r#"Payload.Job.Tags.exists(t, t in ["b", "c"])"#, true),
        (r#"Payload.Job.Tags.exists_one(t, t == "a")"#, true),
        (r#"size(Payload.Job.Tags.filter(t, t != "a")) == 1"#, true),
        (r#"Payload.Job.Tags.map(t, size(t) + 1)[1] == 2"#, true),
        (r#"Key + "/" + Node == "web/n1""#, true),
        (r#"Payload.Job.Priority + 1 == 71"#, true),
    ] {
        let expression =
            Expression::compile(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(expression.matches(&view.events()[0]), expected, "{text}");
    }
}

#[test]
fn expressions_that_cannot_be_are_refused() {
    for text in ["", "Topic ==", "(", "a b"] {
        assert!(
            matches!(
                Expression::compile(text),
                Err(ExpressionError::Syntax { .. })
            ),
            "{text:?}"
        );
    }
    assert!(matches!(
        Expression::compile("topic == 'x'"),
        Err(ExpressionError::UnknownVariable { .. })
    ));
    assert!(Expression::compile("FilterKeys.exists(a, a == Key)").is_ok());
    assert!(matches!(
        Expression::compile("FilterKeys.exists(a, FilterKeys.all(b, a == b))"),
        Err(ExpressionError::LoopsTooDeep { depth: 2 })
    ));
    let long = format!("Topic == '{}'", "x".repeat(2_048));
    assert!(matches!(
        Expression::compile(&long),
        Err(ExpressionError::TooLong { .. })
    ));
    let deep = format!("{}true{}", "(".repeat(1_000), ")".repeat(1_000));
    let _ = Expression::compile(&deep); // refused or not: no overflow
}

#[test]
fn a_filter_that_can_match_nothing_is_refused() {
    for (text, part) in [
        ("1", "a number"),
        ("Key", "a text"),
        ("Payload", "an object"),
        ("FilterKeys", "a list"),
        ("Index + 1", "a number"),
        (r#"Key == "a" || "b""#, "a text"),
        ("FilterKeys.map(k, k)", "a list"),
        ("!size(Key)", "a number"),
        (r#"Key.startswith("a")"#, "startswith, which is no function"),
        (r#"lower(Key) == "a""#, "lower, which is no function"),
        (r#"startsWith(Key, "a")"#, "write value.startsWith(x)"),
        ("optional.of(1).hasValue()", "events do not have"),
    ] {
        let error = Expression::compile(text).expect_err(text).to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
    for text in [
        "true",
        "has(Payload.a)",
        "Payload.flag",
        "Payload.list[0]",
        "bool(Payload.flag)",
        "Payload.a ? Payload.b : false",
        "FilterKeys.exists(k, k == Key)",
    ] {
        Expression::compile(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    }
}

#[test]
fn g9_filters_whose_cost_grows_faster_than_the_event_are_refused() {
    let is = |text: &str| Expression::compile(text).map(|_| ()).unwrap_err();
    assert_eq!(
        is("Payload.a.map(x, x).map(x, x).exists(x, x == 1)"),
        ExpressionError::ChainedLoops
    );
    assert_eq!(
        is("(Payload.a.map(x, x) + Payload.b).exists(x, x == 1)"),
        ExpressionError::ChainedLoops
    );
    for text in [
        "Payload.a.map(x, Payload.a) == 1",
        "Payload.a.exists(x, x in Payload.b)",
        "Payload.a.exists(x, x in FilterKeys)",
        "Payload.a.all(x, Payload.s.contains(x))",
        "Payload.a.all(x, size(Payload.s) > x)",
        "Payload.a.map(x, x + x) == Payload.b",
        "Payload.a.map(x, [x, x]) == Payload.b",
        "Payload.a.map(x, {\"a\": x}) == Payload.b",
        "Payload.a.exists(x, x.matches(\"a\"))",
        "Payload.a.exists(x, x in [Payload.b])",
    ] {
        assert!(
            matches!(
                is(text),
                ExpressionError::InLoop { .. } | ExpressionError::LongElement
            ),
            "{text}: {}",
            is(text)
        );
    }
    assert_eq!(is("[Payload, Payload] == 1"), ExpressionError::LongElement);
    assert_eq!(is("{\"a\": Payload} == 1"), ExpressionError::LongElement);
    let sum = ["Payload.a"; 10].join("+");
    assert!(matches!(
        is(&format!("{sum} == Payload.b")),
        ExpressionError::TooManyAdditions { .. }
    ));
    // What is allowed is searched in time, and what would take too long has no answer.
    let numbers = (0..100_000).map(|n| n.to_string()).collect::<Vec<_>>();
    let numbers = numbers.join(",");
    let json = format!(r#"{{"Topic":"T","Type":"A","Payload":{{"a":[{numbers}]}}}}"#);
    let line = line(1, &[event(&json)]);
    let view = FrameView::parse(&line).unwrap();
    let last = Expression::compile("Payload.a.exists(x, x == 99999)").unwrap();
    assert!(last.matches(&view.events()[0]));
    let many = ["x == -1"; 200].join("||");
    let many = Expression::compile(&format!("Payload.a.all(x, !({many}))"));
    if let Ok(many) = many {
        assert!(!many.matches(&view.events()[0]));
    }
    let wide = ["Payload.a == Payload.a"; 60].join("&&");
    assert!(
        !Expression::compile(&wide)
            .unwrap()
            .matches(&view.events()[0])
    );
}

#[test]
fn g9_patterns_are_literals_of_bounded_size() {
    let is = |text: &str| Expression::compile(text).map(|_| ()).unwrap_err();
    assert_eq!(
        is("Key.matches(Payload.pattern)"),
        ExpressionError::PatternNotLiteral
    );
    assert_eq!(
        is(r#"Key.matches("a" + Key)"#),
        ExpressionError::PatternNotLiteral
    );
    for text in [
        r#"Key.matches("(a")"#,
        r#"Key.matches("(\\w{500}){500}")"#,
        r#"matches(Key, "(((a{100}){100}){100})")"#,
    ] {
        assert!(
            matches!(is(text), ExpressionError::Pattern { .. }),
            "{text}"
        );
    }
    let many = [r#"Key.matches("a")"#; 5].join("||");
    assert!(matches!(
        is(&many),
        ExpressionError::TooManyPatterns { count: 5, .. }
    ));
}

/// Both sides of the limit on nesting, on as much stack as a worker has.
#[test]
fn g9_nested_expressions_do_not_overflow_a_workers_stack() {
    let line = line(1, &[event(r#"{"Topic":"T","Type":"A"}"#)]);
    let check = move || {
        let view = FrameView::parse(&line).unwrap();
        let sum = |terms: usize| format!("Index == {}", vec!["1"; terms].join("+"));
        let mut deepest = 0;
        for terms in 1..1_000 {
            match Expression::compile(&sum(terms)) {
                Ok(expression) => {
                    assert_eq!(expression.matches(&view.events()[0]), terms == 1);
                    deepest = terms;
                }
                Err(ExpressionError::TooDeep { .. }) => break,
                Err(error) => panic!("{error}"),
            }
        }
        assert!((50..200).contains(&deepest), "{deepest}");
    };
    let worker = std::thread::Builder::new().stack_size(2 << 20).spawn(check);
    worker.unwrap().join().unwrap();
}

#[test]
fn cloudevents_round_trip() {
    for json in [
        r#"{"Topic":"Job","Type":"JobRegistered","Key":"web","FilterKeys":["a","b"],"Id":"i1","Node":"n 1","Source":"api","Time":"2026-11-22T07:45:47.123456Z","Payload":{"a":{"b":1.0}}}"#,
        r#"{"Topic":"Node","Type":"A","Namespace":"","Id":"i2","Node":"","Source":"","Time":"2026-11-22T07:45:47.123456Z","Payload":null}"#,
    ] {
        let first = line(5, &[event(json)]);
        let cloud = to_cloudevent(&FrameView::parse(&first).unwrap().events()[0]);
        let back = from_cloudevent(&cloud).unwrap();
        back.check(&Limits::default()).unwrap();
        assert_eq!(
            line(5, &[back]),
            first,
            "{}",
            String::from_utf8_lossy(&cloud)
        );
        let value: Value = serde_json::from_slice(&cloud).unwrap();
        assert_eq!(value["specversion"], "1.0");
        for (name, value) in value.as_object().unwrap() {
            assert!(
                name.bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
                    && name.len() <= 20,
                "{name}"
            );
            assert!(
                name == "data" || value.as_str().is_some_and(|text| !text.is_empty()),
                "{name}"
            );
        }
    }
}

#[test]
fn foreign_cloudevents_find_their_place() {
    let json = br#"{"specversion":"1.0","id":"A234","source":"/mycontext","type":"com.example.someevent","subject":"larger","time":"2018-04-05T17:31:00Z","comexampleextension1":"value","datacontenttype":"text/xml","data":"<much/>"}"#;
    let event = from_cloudevent(json).unwrap();
    event.check(&Limits::default()).unwrap();
    assert_eq!(
        (&*event.topic, &*event.r#type, &*event.key),
        ("CloudEvent", "com.example.someevent", "larger")
    );
    assert_eq!(event.id.as_deref(), Some("/mycontext#A234"));
    assert_eq!(event.source.as_deref(), Some("/mycontext"));
    let payload: Value = serde_json::from_str(event.payload.get()).unwrap();
    assert_eq!(
        payload,
        json!({"data": "<much/>", "attributes": {"comexampleextension1": "value", "datacontenttype": "text/xml"}})
    );
    // Attributes that are called as ours and are something else.
    let json = br#"{"specversion":"1.0","id":"1","source":"s","type":"t","index":3,"node":{"a":1},"topic":7,"datacontenttype":"application/json; charset=utf-8","data":{}}"#;
    let event = from_cloudevent(json).unwrap();
    event.check(&Limits::default()).unwrap();
    assert_eq!(event.topic, "CloudEvent");
    let payload: Value = serde_json::from_str(event.payload.get()).unwrap();
    assert_eq!(
        payload,
        json!({"data": {}, "attributes": {"index": 3, "node": {"a": 1}, "topic": 7}})
    );
    let plain = br#"{"specversion":"1.0","id":"1","source":"s","type":"t","datacontenttype":"application/json","data":{"n":1}}"#;
    assert_eq!(from_cloudevent(plain).unwrap().payload.get(), r#"{"n":1}"#);
    // A long id is the same hash each time, and another for another id.
    let id_of = |id: &str| {
        let json = json!({"specversion": "1.0", "id": id, "source": "s", "type": "t"}).to_string();
        let event = from_cloudevent(json.as_bytes()).unwrap();
        event.check(&Limits::default()).unwrap();
        event.id.unwrap().into_owned()
    };
    let (one, other) = ("x".repeat(126), "x".repeat(127));
    assert_eq!(id_of(&one), format!("s#{one}"));
    assert!(id_of(&other).starts_with("cloudevent-"));
    assert_eq!(id_of(&other), id_of(&other));
    assert_ne!(id_of(&other), id_of(&"y".repeat(127)));

    for (json, code) in [
        (
            &br#"{"id":"1","source":"s","type":"t"}"#[..],
            "field_missing",
        ),
        (
            br#"{"specversion":"0.3","id":"1","source":"s","type":"t"}"#,
            "cloudevent_version",
        ),
        (
            br#"{"specversion":"1.0","id":"","source":"s","type":"t"}"#,
            "field_missing",
        ),
        (
            br#"{"specversion":"1.0","id":1,"source":"s","type":"t"}"#,
            "malformed_json",
        ),
        (br#"[]"#, "malformed_json"),
    ] {
        assert_eq!(from_cloudevent(json).unwrap_err().code(), code);
    }
    let batch = br#"[{"specversion":"1.0","id":"1","source":"s","type":"t"},{"specversion":"1.0","id":"2","source":"s","type":"t"}]"#;
    assert_eq!(
        from_cloudevent_batch(batch, &Limits::default())
            .unwrap()
            .len(),
        2
    );
}

#[test]
fn lines_in_another_form_are_not_read() {
    let good = line(
        1,
        &[event(
            r#"{"Topic":"T","Type":"A","FilterKeys":["a"],"Payload":{"x":"}"}}"#,
        )],
    );
    assert!(FrameView::parse(&good).is_ok());
    for at in 0..good.len() - 1 {
        assert!(FrameView::parse(&good[..at]).is_err(), "cut at {at}");
    }
    for wrong in [
        "{}",
        "",
        "{\"Index\":01,\"Events\":[]}",
        "{\"Index\":1,\"Events\":[]} ",
    ] {
        assert!(FrameView::parse(wrong.as_bytes()).is_err(), "{wrong}");
    }
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>()
            .prop_filter("finite", |f| f.is_finite())
            .prop_map(Value::from),
        ".*".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::btree_map(".*", inner, 0..5)
                .prop_map(|map| Value::from(serde_json::Map::from_iter(map))),
        ]
    })
}

proptest! {
    /// Whatever the texts and the payload: what is read from the line is what was handed in.
    #[test]
    fn events_survive_the_line(
        topic in "[^:*\\p{Cc}]{1,20}", r#type in "[^\\p{Cc}]{1,20}", key in "[^\\p{Cc}]{0,20}", namespace in "[^*\\p{Cc}]{0,20}",
        filter_keys in proptest::option::of(proptest::collection::vec("[^\\p{Cc}]{0,10}", 0..4)),
        payload in proptest::collection::btree_map(".*", json_value(), 0..4), pretty in any::<bool>(),
    ) {
        let payload = Value::from(serde_json::Map::from_iter(payload));
        let request = json!({"Topic": topic, "Type": r#type, "Key": key, "Namespace": namespace, "FilterKeys": filter_keys, "Payload": payload});
        let text = if pretty { serde_json::to_string_pretty(&request) } else { serde_json::to_string(&request) }.unwrap();
        let new = event(&text);
        let line = line(7, &[new.clone(), new]);
        prop_assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        let view = FrameView::parse(&line).unwrap();
        prop_assert_eq!(view.events().len(), 2);
        for seen in view.events() {
            prop_assert_eq!(&*seen.topic(), &topic);
            prop_assert_eq!(&*seen.type_(), &r#type);
            prop_assert_eq!(&*seen.key(), &key);
            prop_assert_eq!(&*seen.namespace(), &namespace);
            prop_assert_eq!(seen.has_null_filter_keys(), filter_keys.is_none());
            prop_assert_eq!(seen.filter_keys(), filter_keys.clone().unwrap_or_default());
            prop_assert_eq!(seen.payload(), serde_json::to_string(&payload).unwrap());
            prop_assert_eq!(&*seen.id(), "given");
        }
        // And for programs that decode all of it.
        let frame: Frame = serde_json::from_slice(&line).unwrap();
        prop_assert_eq!(&frame.events[1].topic, &topic);
        prop_assert_eq!(&frame.events[1].filter_keys, &filter_keys);
    }

    /// Any bytes as a line or a request: an answer, no panic.
    #[test]
    fn g9_arbitrary_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0..400_usize, flip in 0..400_usize) {
        let mut near = line(7, &[event(r#"{"Topic":"T","Type":"A","FilterKeys":["a\\","b"],"Payload":{"a":"\\\"}"}}"#)]).to_vec();
        near.truncate(cut.max(1));
        let at = flip % near.len();
        near[at] ^= 1 << (flip % 8);
        for bytes in [bytes, near] {
            let _ = NewEvent::parse(&bytes);
            let _ = NewEvent::parse_line(&bytes, &Limits::default());
            let _ = from_cloudevent(&bytes);
            if let Ok(view) = FrameView::parse(&bytes) {
                let _ = view.digest();
                for event in view.events() {
                    let _ = (event.topic(), event.filter_keys(), event.time(), to_cloudevent(event));
                }
            }
        }
    }
}
