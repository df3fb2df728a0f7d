use serde_json::{Map, Value, json};

/// The description of every route in the OpenAPI 3.1 form; what `/v1/openapi.json` answers.
pub fn openapi() -> Value {
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "tidings",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "One ordered, durable, replayable timeline of cluster events.",
            "license": { "name": "MIT OR Apache-2.0" },
        },
        "security": [{ "NomadToken": [] }, { "Bearer": [] }],
        "paths": paths(),
        "components": {
            "securitySchemes": {
                "NomadToken": { "type": "apiKey", "in": "header", "name": "X-Nomad-Token" },
                "Bearer": { "type": "http", "scheme": "bearer" },
            },
            "schemas": schemas(),
        },
    })
}

fn paths() -> Value {
    json!({
        "/v1/event/stream": { "get": event_stream() },
        "/v1/events": { "get": events_websocket(), "post": publish() },
        "/v1/state/{topic}": { "get": list_entries() },
        "/v1/state/{topic}/{key}": {
            "get": get_entry(),
            "put": put_entry(),
            "delete": delete_entry(),
        },
        "/v1/servers": {
            "get": plain("servers", "Which servers hold the timeline, and which of them leads.",
                "200", json_of("Servers")),
        },
        "/v1/servers/transfer-leader": { "post": transfer_leader() },
        "/v1/servers/{name}/promote": {
            "post": change_server("promoteServer", "Give a vote to a server that has none."),
        },
        "/v1/servers/{name}": {
            "delete": change_server("removeServer",
                "Take a server out for good, such as one that is dead. It cannot come back but with an empty data directory."),
        },
        "/v1/history/digests": { "get": digests() },
        "/v1/snapshot": { "get": save_snapshot(), "post": restore_snapshot() },
        "/v1/status": {
            "get": plain("status", "How the server, its timeline and its storage are.",
                "200", json_of("Status")),
        },
        "/v1/health/live": {
            "get": open_to_all(plain("live", "Whether the process answers. Needs no token.",
                "200", json_schema(json!({ "type": "object", "required": ["Live"],
                    "properties": { "Live": { "const": true } } })))),
        },
        "/v1/health/ready": {
            "get": open_to_all(with_errors(
                plain("ready", "Whether events can be taken and served. Needs no token.",
                    "200", json_schema(json!({ "type": "object", "required": ["Ready"],
                        "properties": { "Ready": { "const": true } } }))),
                &[("503", "It cannot, or it is stopping; the message says why.")])),
        },
        "/v1/metrics": {
            "get": plain("metrics", "Counters in the text format of Prometheus.", "200",
                json!({ "description": "Metrics.",
                    "content": { "text/plain": { "schema": { "type": "string" } } } })),
        },
        "/v1/openapi.json": {
            "get": plain("openapi", "This description.", "200",
                json_schema(json!({ "type": "object" }))),
        },
    })
}

fn event_stream() -> Value {
    let mut parameters =
        stream_parameters("frame (one frame a line) or cloudevents (one CloudEvent a line)");
    parameters.push(json!({
        "name": "Last-Event-ID", "in": "header", "required": false,
        "description": "With Accept: text/event-stream: resume after this index; overrules index and from.",
        "schema": { "type": "integer", "minimum": 0 },
    }));
    json!({
        "operationId": "followEvents",
        "summary": "Follow events as lines, or as Server-Sent Events.",
        "description": "Compatible with Nomad's endpoint of the same path. The first line, and one every 30 s, is {}. Each line is one frame. The stream ends when the server stops; resume with index = the last index + 1, or let EventSource do so. Errors are plain text, as Nomad's, except 409 and 410.",
        "parameters": parameters,
        "responses": {
            "200": {
                "description": "The stream. It begins at once and goes on until one side ends it.",
                "headers": { "X-Tidings-Timeline": { "description": "Which timeline this is. A reader that resumes and finds another one begins anew.",
                    "schema": { "type": "string" } } },
                "content": {
                    "application/json": { "schema": reference("Frame") },
                    "text/event-stream": { "schema": { "type": "string",
                        "description": "id: the frame's index; data: the frame's line; a comment as heartbeat." } },
                    "application/x-ndjson": { "schema": reference("CloudEvent") },
                },
            },
            "400": text("A parameter is wrong, such as: Unable to parse index: …; Invalid index; Invalid topic query: …"),
            "403": text("Permission denied; without a token also: the request's Host is none of this server's"),
            "405": text("Invalid method"),
            "409": error("index_ahead: index is beyond the next one and strict=true; Error.Newest says how far the timeline is."),
            "410": error("index is older than what is retained and strict=true; Error.Oldest says where it begins."),
            "414": text("The query is too long."),
            "500": text("EventBroker not configured, or No path to region"),
            "503": text("Too many streams are open, or index is not here yet and nobody tells whether it is anywhere."),
        },
    })
}

fn events_websocket() -> Value {
    let mut operation = json!({
        "operationId": "followEventsWebSocket",
        "summary": "Follow events over a WebSocket.",
        "description": "One event a message (format=event), one frame a message (format=frame), or one CloudEvent a message. Pings are the heartbeat; with progress=true messages {\"Index\":N,\"Events\":[]} are. The end of a snapshot is a message with Marker. Messages of the client are dropped. Browsers may connect from the same origin only. Close codes: 1001 the server stops, 1011 the history cannot be read, 4410 frames are no longer retained (strict).",
        "parameters": stream_parameters("event, frame or cloudevents"),
        "responses": { "101": { "description": "The WebSocket is open." } },
    });
    operation = with_errors(
        operation,
        &[
            ("400", "A parameter is wrong."),
            (
                "410",
                "index is older than what is retained and strict=true.",
            ),
            (
                "409",
                "index is beyond the next one and strict=true (index_ahead).",
            ),
            ("426", "The request is no WebSocket upgrade over HTTP/1.1."),
            (
                "500",
                "The stream is disabled, or there is no path to the region.",
            ),
            (
                "503",
                "Too many streams are open, or index is not here yet and nobody tells whether it is anywhere; see Retry-After.",
            ),
        ],
    );
    guarded(operation)
}

fn stream_parameters(formats: &str) -> Vec<Value> {
    vec![
        json!({
            "name": "topic", "in": "query", "required": false, "explode": true, "style": "form",
            "description": "Topic, Topic:key, * or *:key; may be repeated. * is a wildcard wherever it stands. Default: everything.",
            "schema": { "type": "array", "items": { "type": "string" } },
        }),
        query(
            "namespace",
            "A namespace, or * for all. Events without one always pass.",
            json!({ "type": "string", "default": "default" }),
        ),
        query(
            "index",
            "The first frame, inclusive; absent or 0: the newest 100 frames, then what comes. Older than what is retained: the oldest (but see strict). The next one is waited for; beyond it the stream begins with the newest (but see strict).",
            json!({ "type": "integer", "minimum": 0, "maximum": 9_223_372_036_854_775_807_u64 }),
        ),
        query(
            "from",
            "Where to begin instead of an index: beginning (the oldest frame), now, or snapshot: every entry of the state as a frame, in the order of ModifyIndex, a line with Marker SnapshotEnd, then every later frame.",
            json!({ "type": "string", "enum": ["beginning", "now", "snapshot"] }),
        ),
        query(
            "last_index",
            "Resume after this index, as Last-Event-ID.",
            json!({ "type": "integer", "minimum": 0 }),
        ),
        query(
            "filter",
            "A CEL expression over Topic, Type, Key, Namespace, FilterKeys, Index, Id, Time, Node, Source and Payload; at most 2 KiB. One loop deep, patterns as literals: what could cost more than reading its event is refused.",
            json!({ "type": "string", "maxLength": 2048 }),
        ),
        query(
            "progress",
            "Heartbeats say up to which index everything was sent: {\"Index\":N,\"Events\":[]}.",
            json!({ "type": "boolean", "default": false }),
        ),
        query(
            "strict",
            "Answer 410, or end the stream, rather than leave out frames that are no longer retained; answer 409 to an index beyond the next one.",
            json!({ "type": "boolean", "default": false }),
        ),
        query(
            "heartbeat",
            "How often a heartbeat is written, as Go writes durations: 5s. At least 1s, at most what the server does by itself.",
            json!({ "type": "string" }),
        ),
        query("format", formats, json!({ "type": "string" })),
        query(
            "region",
            "Nomad's region: ours, global, or absent.",
            json!({ "type": "string" }),
        ),
    ]
}

fn publish() -> Value {
    let operation = json!({
        "operationId": "publish",
        "summary": "Publish events.",
        "parameters": [{
            "name": "X-Tidings-Sender",
            "in": "header",
            "description": "ID EPOCH FIRST: a ULID, the microseconds since 1970 at which the sender's count began, and the number of the first transaction; each further one has the next. Every number is taken once and in order.",
            "schema": { "type": "string" },
        }],
        "description": "A transaction is all or nothing and becomes one frame. An Id given by the publisher makes a repeat recognisable: it is answered with the index of the first time. As application/x-ndjson each line is a transaction or one bare event, answered by a line each, in order, while further lines still arrive; a line that is refused does not end the stream, one that is too long does.",
        "requestBody": {
            "required": true,
            "content": {
                "application/json": { "schema": { "oneOf": [reference("Transaction"), reference("NewEvent")] } },
                "application/x-ndjson": { "schema": { "oneOf": [reference("Transaction"), reference("NewEvent")] } },
                "application/cloudevents+json": { "schema": reference("CloudEvent") },
                "application/cloudevents-batch+json": { "schema": { "type": "array", "items": reference("CloudEvent") } },
            },
        },
        "responses": {
            "200": {
                "description": "The events are durable and have this index; for lines: what became of each.",
                "content": {
                    "application/json": { "schema": reference("Published") },
                    "application/x-ndjson": { "schema": { "oneOf": [reference("Published"), reference("Error")] } },
                },
            },
        },
    });
    guarded(with_errors(
        operation,
        &[
            (
                "400",
                "The body is not what it says, an event breaks a rule, only some events bear an Id (some_ids), or X-Tidings-Sender is not understood (sender_invalid).",
            ),
            ("408", "The body stopped coming."),
            (
                "409",
                "Some events of the transaction were published before, others not (partly_duplicate).",
            ),
            ("413", "The body, the transaction or an event is too large."),
            (
                "415",
                "The Content-Type is not understood; the message names those that are.",
            ),
            (
                "503",
                "Too much waits (overloaded), there is no leader, or the server stops; see Retry-After.",
            ),
            ("507", "The disk is full (disk_full); see Retry-After."),
        ],
    ))
}

const NO_LEADER_TO_READ: (&str, &str) = (
    "503",
    "No leader is known, or it cannot be asked (no_leader): ask again later, or with stale=true.",
);

fn list_entries() -> Value {
    let mut parameters = vec![topic_parameter()];
    parameters.extend([
        query(
            "namespace",
            "A namespace, or * for all.",
            json!({ "type": "string", "default": "default" }),
        ),
        query(
            "prefix",
            "Only keys that begin so.",
            json!({ "type": "string" }),
        ),
        query(
            "per_page",
            "Entries of one answer; at most 10,000, which is also the default.",
            json!({ "type": "integer" }),
        ),
        query(
            "next_token",
            "X-Nomad-NextToken of the page before.",
            json!({ "type": "string" }),
        ),
        query(
            "filter",
            "A CEL expression over the event that changed the entry last.",
            json!({ "type": "string", "maxLength": 2048 }),
        ),
    ]);
    parameters.extend(blocking_parameters());
    let operation = json!({
        "operationId": "listEntries",
        "summary": "List entries of the state, by namespace and key.",
        "parameters": parameters,
        "responses": { "200": with_index_headers(json_schema(json!({ "type": "array", "items": reference("Entry") }))) },
    });
    guarded(with_errors(
        operation,
        &[
            (
                "400",
                "A parameter is wrong; texts are Nomad's where it has them.",
            ),
            NO_LEADER_TO_READ,
        ],
    ))
}

fn get_entry() -> Value {
    let mut parameters = entry_parameters();
    parameters.extend(blocking_parameters());
    let operation = json!({
        "operationId": "getEntry",
        "summary": "Read an entry of the state.",
        "parameters": parameters,
        "responses": { "200": with_index_headers(json_of("Entry")) },
    });
    guarded(with_errors(
        operation,
        &[
            ("400", "A parameter is wrong."),
            (
                "404",
                "There is no such entry (no_entry); the index headers are set.",
            ),
            NO_LEADER_TO_READ,
        ],
    ))
}

fn put_entry() -> Value {
    let mut parameters = entry_parameters();
    parameters.extend(change_parameters("EntryPut"));
    let operation = json!({
        "operationId": "putEntry",
        "summary": "Write an entry of the state; an event tells of it.",
        "parameters": parameters,
        "requestBody": { "required": true, "description": "The payload.",
            "content": { "application/json": { "schema": { "type": "object" } } } },
        "responses": { "200": json_of("Changed") },
    });
    guarded(with_errors(
        operation,
        &[
            (
                "400",
                "The body is no JSON object, or a name breaks a rule.",
            ),
            ("408", "The body stopped coming."),
            (
                "409",
                "The entry's ModifyIndex is not cas (cas_mismatch); Error.ModifyIndex says what it is.",
            ),
            ("413", "The payload is too large."),
            (
                "503",
                "Too much waits, there is no leader, or the server stops; see Retry-After.",
            ),
            ("507", "The disk is full; see Retry-After."),
        ],
    ))
}

fn delete_entry() -> Value {
    let mut parameters = entry_parameters();
    parameters.extend(change_parameters("EntryDeleted"));
    let operation = json!({
        "operationId": "deleteEntry",
        "summary": "Remove an entry of the state; an event tells of it.",
        "parameters": parameters,
        "responses": { "200": json_of("Changed") },
    });
    guarded(with_errors(
        operation,
        &[
            ("400", "A parameter is wrong."),
            ("404", "There is no such entry (no_entry)."),
            ("409", "The entry's ModifyIndex is not cas (cas_mismatch)."),
            (
                "503",
                "Too much waits, there is no leader, or the server stops; see Retry-After.",
            ),
            ("507", "The disk is full; see Retry-After."),
        ],
    ))
}

fn change_server(id: &str, summary: &str) -> Value {
    changes_servers(json!({
        "operationId": id,
        "summary": summary,
        "parameters": [{ "name": "name", "in": "path", "required": true,
            "description": "Name or Id of a server.", "schema": { "type": "string" } }],
    }))
}

fn transfer_leader() -> Value {
    changes_servers(json!({
        "operationId": "transferLeader",
        "summary": "Let another server lead.",
        "parameters": [query("to", "Name or Id of the one that shall; absent: the one that has most of the log.",
            json!({ "type": "string" }))],
    }))
}

/// Any server may be asked: it asks the leader.
fn changes_servers(mut operation: Value) -> Value {
    operation["responses"] = json!({ "200": json_of("ServersChanged") });
    guarded(with_errors(
        operation,
        &[
            ("400", "No server can have such a name."),
            (
                "409",
                "It cannot be done as things are, or there is no such server (servers_refused); the message says what would help.",
            ),
            (
                "503",
                "Nobody leads (no_leader), or the end of the change was not seen (change_unfinished): look at the servers; see Retry-After.",
            ),
        ],
    ))
}

fn digests() -> Value {
    let index = || json!({ "type": "integer", "minimum": 1 });
    let operation = json!({
        "operationId": "digestHistory",
        "summary": "Digests of this server's history, to compare it with that of others.",
        "description": "A digest (SHA-256) for each step frames of from to to. An answer has at most 256 digests and costs bounded work: it covers what is up to To; ask again from To + 1 for the rest. Where digests of two servers differ, ask for that step again in smaller ones, down to one frame.",
        "parameters": [
            query("from", "The first frame; absent: the oldest.", index()),
            query("to", "The last frame, inclusive; absent: the newest.", index()),
            query("step", "Frames of one digest; absent: all of them in one.", index()),
            query("of",
                "checksums: of the CRC-32 of each line (4 bytes little-endian), as noted when it was written; lines: of the lines themselves, which are read and checked for that.",
                json!({ "type": "string", "enum": ["checksums", "lines"], "default": "checksums" })),
        ],
        "responses": { "200": json_of("Digests") },
    });
    guarded(with_errors(
        operation,
        &[
            ("400", "A parameter is wrong, or from is beyond to."),
            (
                "410",
                "from is older than what is retained (index_gone); Error.Oldest says where it begins.",
            ),
            ("500", "The index of a segment is damaged."),
            (
                "503",
                "Others compare already (overloaded); see Retry-After.",
            ),
        ],
    ))
}

fn octets() -> Value {
    json!({ "application/octet-stream": { "schema": { "type": "string", "format": "binary" } } })
}

fn save_snapshot() -> Value {
    let mut parameters = vec![query(
        "history",
        "false leaves the history out: the state alone, which is all that a restore needs.",
        json!({ "type": "boolean", "default": true }),
    )];
    parameters.extend(freshness_parameters());
    let file = json!({ "description": "The file. It is whole when its last block is there: what is cut off has none, and is refused.",
        "content": octets() });
    let operation = json!({
        "operationId": "saveSnapshot",
        "summary": "The state and the history of this server as one file, as of one log entry.",
        "parameters": parameters,
        "responses": { "200": with_index_headers(file) },
    });
    guarded(with_errors(
        operation,
        &[
            ("400", "A parameter is wrong."),
            ("500", "The history is damaged (disk)."),
            (
                "503",
                "Others are being saved already (overloaded), or no leader is known (no_leader); see Retry-After.",
            ),
        ],
    ))
}

fn restore_snapshot() -> Value {
    let operation = json!({
        "operationId": "restoreSnapshot",
        "summary": "Bring the entries of the state back to what they are in a snapshot.",
        "description": "Each difference becomes a change like any other, with an index above all others and an event: an entry is written as it was, or removed (RemovedByRestore). Last comes an event Timeline/StateRestored. Nothing is taken from the history. Nothing is changed before the file was read to its end and found whole; what is refused has changed nothing. The same again does what an interrupted one has left.",
        "parameters": [query(
            "any_timeline",
            "Whether the snapshot may be of another timeline, whose entries then come here.",
            json!({ "type": "boolean", "default": false }),
        )],
        "requestBody": { "required": true, "content": octets() },
        "responses": { "200": json_of("Restored") },
    });
    guarded(with_errors(
        operation,
        &[
            (
                "400",
                "It is no snapshot (not_a_snapshot), is damaged or cut (snapshot_damaged), or did not come to its end (body_incomplete).",
            ),
            ("408", "The file stopped coming."),
            ("409", "It is of another timeline (other_timeline)."),
            (
                "413",
                "Its state is larger than limits.restore_state_bytes (snapshot_too_large).",
            ),
            (
                "503",
                "Another is being restored (overloaded), or there is no leader (no_leader); the message says whether some changes were made; see Retry-After.",
            ),
            ("507", "The disk is full; see Retry-After."),
        ],
    ))
}

fn topic_parameter() -> Value {
    json!({ "name": "topic", "in": "path", "required": true, "schema": { "type": "string" } })
}

fn entry_parameters() -> Vec<Value> {
    vec![
        topic_parameter(),
        json!({ "name": "key", "in": "path", "required": true,
            "description": "May contain slashes.", "schema": { "type": "string" } }),
        query(
            "namespace",
            "The entry's namespace.",
            json!({ "type": "string", "default": "default" }),
        ),
    ]
}

fn change_parameters(default_type: &str) -> Vec<Value> {
    vec![
        query(
            "cas",
            "Only when the entry's ModifyIndex is this; 0: only when there is no entry.",
            json!({ "type": "integer", "minimum": 0 }),
        ),
        query(
            "type",
            "The Type of the event that tells of it.",
            json!({ "type": "string", "default": default_type }),
        ),
    ]
}

fn blocking_parameters() -> Vec<Value> {
    vec![
        query(
            "index",
            "Wait until X-Nomad-Index is greater than this; 0: do not wait.",
            json!({ "type": "integer", "minimum": 0 }),
        ),
        query(
            "wait",
            "How long, as Go writes durations: 10s, 5m, 1000ms. At most 300s, the default; up to a sixteenth is added.",
            json!({ "type": "string" }),
        ),
    ]
    .into_iter()
    .chain(freshness_parameters())
    .collect()
}

fn freshness_parameters() -> Vec<Value> {
    vec![
        query(
            "stale",
            "Answer with what this server has, also when no leader is known. Not with consistent.",
            json!({ "type": "boolean", "default": false }),
        ),
        query(
            "consistent",
            "Answer with everything that was acknowledged before the request, whichever server took it: asks the leader. Not with stale.",
            json!({ "type": "boolean", "default": false }),
        ),
    ]
}

fn query(name: &str, description: &str, schema: Value) -> Value {
    json!({ "name": name, "in": "query", "required": false, "description": description, "schema": schema })
}

fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

fn json_schema(schema: Value) -> Value {
    json!({ "description": "The answer.", "content": { "application/json": { "schema": schema } } })
}

fn json_of(schema: &str) -> Value {
    json_schema(reference(schema))
}

fn text(description: &str) -> Value {
    json!({ "description": description, "content": { "text/plain": { "schema": { "type": "string" } } } })
}

fn error(description: &str) -> Value {
    json!({ "description": description, "content": { "application/json": { "schema": reference("Error") } } })
}

fn with_index_headers(mut response: Value) -> Value {
    response["headers"] = json!({
        "X-Nomad-Index": { "description": "What to give as index to wait for the next change; at least 1.", "schema": { "type": "integer" } },
        "X-Nomad-LastContact": { "description": "Milliseconds since this server last heard of the leader; 0 on the leader.", "schema": { "type": "integer" } },
        "X-Nomad-KnownLeader": { "description": "Whether somebody leads, as far as this server knows.", "schema": { "type": "boolean" } },
        "X-Nomad-NextToken": { "description": "Set when there is a next page.", "schema": { "type": "string" } },
        "X-Tidings-Index": { "description": "The newest frame that the answer includes.", "schema": { "type": "integer" } },
        "X-Tidings-Timeline": { "description": "Which timeline this is; absent until it is founded.", "schema": { "type": "string" } },
    });
    response
}

fn plain(id: &str, summary: &str, status: &str, response: Value) -> Value {
    let mut responses = Map::new();
    responses.insert(String::from(status), response);
    guarded(json!({ "operationId": id, "summary": summary, "responses": responses }))
}

/// What every route of ours can answer that asks for a token.
fn guarded(operation: Value) -> Value {
    with_errors(
        operation,
        &[
            (
                "403",
                "Permission denied: the token is missing or wrong, or a page of another site asks.",
            ),
            ("414", "The query is too long."),
        ],
    )
}

fn open_to_all(mut operation: Value) -> Value {
    operation["security"] = json!([]);
    if let Some(responses) = operation["responses"].as_object_mut() {
        responses.remove("403");
    }
    operation
}

fn with_errors(mut operation: Value, errors: &[(&str, &str)]) -> Value {
    for (status, description) in errors {
        operation["responses"][*status] = error(description);
    }
    operation
}

fn schemas() -> Value {
    let string = || json!({ "type": "string" });
    let integer = || json!({ "type": "integer", "minimum": 0 });
    let payload = || json!({ "type": ["object", "null"] });
    let event = || {
        json!({
            "Topic": { "type": "string", "description": "Without a colon, and not *." },
            "Type": string(),
            "Key": string(),
            "Namespace": { "type": "string", "default": "default" },
            "FilterKeys": { "type": ["array", "null"], "items": { "type": "string" } },
            "Id": { "type": "string", "description": "Unique; given by the publisher, or a ULID." },
            "Time": { "type": "string", "format": "date-time" },
            "Node": string(),
            "Source": string(),
            "Payload": payload(),
        })
    };
    let mut indexed = event();
    indexed["Index"] = integer();
    json!({
        "NewEvent": { "type": "object", "required": ["Topic", "Type"], "additionalProperties": false,
            "properties": indexed },
        "Transaction": { "type": "object", "required": ["Events"],
            "properties": { "Events": { "type": "array", "minItems": 1, "items": reference("NewEvent") } } },
        "Event": { "type": "object",
            "required": ["Index", "Topic", "Type", "Key", "Namespace", "FilterKeys", "Id", "Time", "Node", "Source", "Payload"],
            "properties": indexed },
        "Frame": { "type": "object",
            "description": "{} is a heartbeat.",
            "properties": {
                "Index": integer(),
                "Events": { "type": "array", "items": reference("Event") },
                "Marker": { "type": "string", "enum": [tidings_event::MARKER_SNAPSHOT_END] },
            } },
        "Published": { "type": "object", "required": ["Index"],
            "properties": { "Index": integer(),
                "Duplicate": { "type": "boolean", "description": "It was published before, at this index." } } },
        "Changed": { "type": "object", "required": ["Index"],
            "properties": { "Index": { "type": "integer", "description": "The frame that tells of the change: the entry's new ModifyIndex." } } },
        "Entry": { "type": "object",
            "required": ["Topic", "Namespace", "Key", "CreateIndex", "ModifyIndex", "Time", "Payload"],
            "properties": { "Topic": string(), "Namespace": string(), "Key": string(),
                "CreateIndex": integer(), "ModifyIndex": integer(),
                "Time": { "type": "string", "format": "date-time" }, "Payload": payload() } },
        "CloudEvent": { "type": "object", "required": ["specversion", "id", "source", "type"],
            "properties": { "specversion": { "const": "1.0" }, "id": string(), "source": string(),
                "type": string(), "subject": string(), "time": string(), "data": {} } },
        "Server": { "type": "object",
            "required": ["Id", "Name", "Peer", "Http", "Role", "Leader", "LastContactMs", "Matched", "ClockAheadMs"],
            "properties": {
                "Id": string(), "Name": string(),
                "Peer": { "type": "string", "description": "Where other servers reach it." },
                "Http": { "type": "string", "description": "Where clients reach it; empty when it does not say." },
                "Role": { "type": "string", "enum": ["voter", "learner", "standby"] },
                "Leader": { "type": "boolean" },
                "LastContactMs": { "type": ["integer", "null"], "description": "Since it was last heard of, as far as the server that was asked knows." },
                "Matched": { "type": ["integer", "null"], "description": "The last log entry that it is known to have; known to the leader, whom the others ask." },
                "ClockAheadMs": { "type": ["integer", "null"], "description": "By how much its clock was ahead of that of the server that answers, when they last met." },
            } },
        "Servers": { "type": "object", "required": ["Servers", "Leader"],
            "properties": { "Servers": { "type": "array", "items": reference("Server") },
                "Leader": { "type": ["string", "null"] } } },
        "ServersChanged": { "type": "object", "required": ["Done", "Leader"],
            "properties": { "Done": { "const": true }, "Leader": { "type": ["string", "null"] } } },
        "Restored": { "type": "object", "required": ["Snapshot", "Written", "Removed", "Index"],
            "properties": {
                "Snapshot": reference("Snapshot"),
                "Written": { "type": "integer", "description": "Entries that were written as they were." },
                "Removed": { "type": "integer", "description": "Entries that were removed, as there were none." },
                "Index": { "type": "integer", "description": "The frame that tells of it; all changes are before it." },
            } },
        "Snapshot": { "type": "object",
            "required": ["Made", "Node", "Timeline", "Entry", "Servers", "Newest", "Oldest", "Entries",
                "StateBytes", "Segments", "HistoryBytes", "FileBytes"],
            "properties": {
                "Made": { "type": "string", "format": "date-time" },
                "Node": { "type": "string" },
                "Timeline": { "type": ["string", "null"] },
                "Entry": { "type": ["integer", "null"] },
                "Servers": { "type": "array", "items": { "type": "string" } },
                "Newest": integer(), "Oldest": integer(),
                "Entries": { "type": "integer" },
                "StateBytes": { "type": "integer" },
                "Segments": { "type": "integer" },
                "HistoryBytes": { "type": "integer" },
                "FileBytes": { "type": "integer" },
            } },
        "Digests": { "type": "object",
            "required": ["Timeline", "Oldest", "Newest", "From", "To", "Step", "Of", "Digests", "Damaged"],
            "properties": {
                "Timeline": { "type": ["string", "null"] },
                "Oldest": integer(), "Newest": integer(),
                "From": integer(),
                "To": { "type": "integer", "description": "The last frame that the digests cover." },
                "Step": integer(), "Of": string(),
                "Digests": { "type": "array", "maxItems": 256, "items": string() },
                "Damaged": { "type": "array", "description": "Frames whose lines are not what was written; only of=lines looks.",
                    "items": { "type": "object", "properties": { "Index": integer(), "Message": string() } } },
            } },
        "Error": { "type": "object", "required": ["Error"],
            "properties": { "Error": { "type": "object", "required": ["Code", "Message"],
                "properties": {
                    "Code": { "type": "string", "description": "Stable; for programs." },
                    "Message": { "type": "string", "description": "What is wrong, and what would be right." },
                    "Oldest": { "type": "integer", "description": "index_gone: the oldest frame." },
                    "ModifyIndex": { "type": "integer", "description": "cas_mismatch: what it is." },
                    "Index": { "type": "integer", "description": "partly_duplicate: where the known event is." },
                    "Newest": { "type": "integer", "description": "index_ahead: the newest frame." },
                } } } },
        "Status": { "type": "object",
            "description": "An agent that holds no timeline tells of Timeline its id and newest index alone, nothing of Term, Leader, Servers, Log, Storage and Settings, and besides of Spool and Relay.",
            "required": ["Version", "Node", "Role", "Ready", "Timeline", "Http"],
            "properties": {
                "Version": string(), "Node": string(), "Region": string(),
                "UptimeSeconds": integer(), "Role": string(), "Term": integer(),
                "Leader": { "type": ["string", "null"] }, "Ready": { "type": "boolean" },
                "LastContactMs": { "type": ["integer", "null"] },
                "Servers": { "type": "array", "items": reference("Server") },
                "NotReady": { "type": ["string", "null"] },
                "Timeline": { "type": "object" }, "Log": { "type": "object" },
                "Storage": { "type": "object" }, "Http": { "type": "object" },
                "Settings": { "type": "object" },
                "Spool": { "type": "object" }, "Relay": { "type": "object" },
            } },
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::routes;

    #[test]
    fn every_route_is_described_and_every_description_is_a_route() {
        let routed: BTreeSet<(String, String)> = routes::table()
            .iter()
            .map(|route| {
                (
                    route.path.replace("{*", "{"),
                    route.method.as_str().to_ascii_lowercase(),
                )
            })
            .collect();
        let described: BTreeSet<(String, String)> = openapi()["paths"]
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(path, methods)| {
                methods
                    .as_object()
                    .unwrap()
                    .keys()
                    .map(|method| (path.clone(), method.clone()))
            })
            .collect();
        assert_eq!(routed, described);
    }

    #[test]
    fn references_lead_somewhere_and_operations_are_whole() {
        let description = openapi();
        let schemas = description["components"]["schemas"]
            .as_object()
            .unwrap()
            .clone();
        let text = description.to_string();
        for reference in text.split("\"#/components/schemas/").skip(1) {
            let name = reference.split('"').next().unwrap();
            assert!(schemas.contains_key(name), "{name}");
        }
        let mut ids = BTreeSet::new();
        for (path, methods) in description["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()));
                assert!(operation["summary"].is_string(), "{method} {path}");
                let responses = operation["responses"].as_object().unwrap();
                assert!(
                    responses
                        .keys()
                        .any(|status| status.starts_with(['1', '2']))
                );
                let named: BTreeSet<&str> = operation["parameters"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter(|parameter| parameter["in"] == "path")
                    .map(|parameter| parameter["name"].as_str().unwrap())
                    .collect();
                let in_path: BTreeSet<&str> = path
                    .split('/')
                    .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
                    .collect();
                assert_eq!(named, in_path, "{method} {path}");
            }
        }
    }
}
