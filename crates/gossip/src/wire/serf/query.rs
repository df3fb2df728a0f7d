//! Questions to all members, and their answers.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;

use super::LamportTime;
use crate::name::Name;
use crate::wire::WireError;
use crate::wire::message::write_address;
use crate::wire::msgpack::{Reader, Writer};

/// Filters of a query; all of them must match.
const FILTERS_MAX: usize = 1024;

/// Names in one filter.
const FILTER_NODES_MAX: usize = 1 << 16;

/// What is asked of a query's receivers. Wire value: append only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueryFlags(pub u32);

impl QueryFlags {
    /// Say at once that it has come.
    pub const ACK: QueryFlags = QueryFlags(1);
    /// Do not pass it on.
    pub const NO_BROADCAST: QueryFlags = QueryFlags(2);

    /// Whether all of `flags` are set.
    pub fn has(self, flags: QueryFlags) -> bool {
        self.0 & flags.0 == flags.0
    }
}

/// A question to all members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// When it was asked.
    pub ltime: LamportTime,
    /// Tells it from another of the same moment.
    pub id: u32,
    /// Where answers go.
    pub addr: Option<IpAddr>,
    /// The port that answers go to.
    pub port: u16,
    /// Who asks.
    pub source_node: Name,
    /// Whom it is for, encoded; see [`Filter`].
    pub filters: Vec<Bytes>,
    /// What is asked of the receivers.
    pub flags: QueryFlags,
    /// Through how many others an answer is to come as well.
    pub relay_factor: u8,
    /// How long answers are waited for.
    pub timeout: Duration,
    /// What it is called.
    pub name: Name,
    /// What it says.
    pub payload: Bytes,
}

impl Query {
    pub(super) fn read(reader: &mut Reader) -> Result<Query, WireError> {
        let mut query = Query::default();
        let fields = [
            "LTime",
            "ID",
            "Addr",
            "Port",
            "SourceNode",
            "Filters",
            "Flags",
            "RelayFactor",
            "Timeout",
            "Name",
            "Payload",
        ];
        reader.structure(&fields, |reader, field| {
            match field {
                "LTime" => query.ltime = LamportTime::read(reader, "LTime")?,
                "ID" => query.id = reader.uint("ID")?,
                "Addr" => query.addr = reader.address()?,
                "Port" => query.port = reader.uint("Port")?,
                "SourceNode" => query.source_node = reader.name()?,
                "Filters" => query.filters = reader.list("filters", FILTERS_MAX, Reader::raw)?,
                "Flags" => query.flags = QueryFlags(reader.uint("Flags")?),
                "RelayFactor" => query.relay_factor = reader.uint("RelayFactor")?,
                // One that is over before it began has no time left.
                "Timeout" => {
                    let nanos = u64::try_from(reader.int("Timeout")?).unwrap_or(0);
                    query.timeout = Duration::from_nanos(nanos);
                }
                "Name" => query.name = reader.name()?,
                _ => query.payload = reader.raw()?,
            }
            Ok(())
        })?;
        Ok(query)
    }

    pub(super) fn write(&self, writer: &mut Writer) {
        writer.map(11);
        write_address(writer.key("Addr"), self.addr);
        writer.key("Filters");
        if self.filters.is_empty() {
            writer.nil();
        } else {
            writer.array(self.filters.len());
            for filter in &self.filters {
                writer.raw(filter);
            }
        }
        writer.key("Flags").uint(self.flags.0);
        writer.key("ID").uint(self.id);
        writer.key("LTime").uint(self.ltime.0);
        writer.key("Name").raw(self.name.as_ref());
        writer.key("Payload").raw(&self.payload);
        writer.key("Port").uint(self.port);
        writer.key("RelayFactor").uint(self.relay_factor);
        writer.key("SourceNode").raw(self.source_node.as_ref());
        let nanos = i64::try_from(self.timeout.as_nanos()).unwrap_or(i64::MAX);
        writer.key("Timeout").int(nanos);
    }
}

/// Whom a query is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    /// These nodes.
    Nodes(Vec<Name>),
    /// Nodes with a tag whose value matches, anywhere in it.
    Tag {
        /// The tag; a node without it has the empty value.
        tag: Name,
        /// A regular expression (RE2).
        expression: Name,
    },
}

impl Filter {
    // Wire values: append only.
    const NODES: u8 = 0;
    const TAG: u8 = 1;

    /// Reads a filter of [`Query::filters`].
    ///
    /// # Errors
    ///
    /// It is empty, of a kind that is not known, or broken.
    pub fn decode(bytes: &Bytes) -> Result<Filter, WireError> {
        let kind = *bytes.first().ok_or(WireError::Empty)?;
        let mut reader = Reader::new(bytes.slice(1..));
        match kind {
            Filter::NODES => {
                let nodes = reader.list("nodes of a filter", FILTER_NODES_MAX, Reader::name)?;
                Ok(Filter::Nodes(nodes))
            }
            Filter::TAG => {
                let (mut tag, mut expression) = (Name::default(), Name::default());
                reader.structure(&["Tag", "Expr"], |reader, field| {
                    match field {
                        "Tag" => tag = reader.name()?,
                        _ => expression = reader.name()?,
                    }
                    Ok(())
                })?;
                Ok(Filter::Tag { tag, expression })
            }
            found => Err(WireError::UnknownType {
                what: "a filter",
                found,
            }),
        }
    }

    /// Its bytes, for [`Query::filters`].
    pub fn encode(&self) -> Bytes {
        let mut writer;
        match self {
            Filter::Nodes(nodes) => {
                writer = Writer::with_type(Filter::NODES);
                writer.array(nodes.len());
                for node in nodes {
                    writer.raw(node.as_ref());
                }
            }
            Filter::Tag { tag, expression } => {
                writer = Writer::with_type(Filter::TAG);
                writer.map(2);
                writer.key("Expr").raw(expression.as_ref());
                writer.key("Tag").raw(tag.as_ref());
            }
        }
        Bytes::from(writer.into_bytes())
    }
}

/// Somebody's answer to a query, or that it has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueryResponse {
    /// The query's moment.
    pub ltime: LamportTime,
    /// The query's number.
    pub id: u32,
    /// Who answers.
    pub from: Name,
    /// With [`QueryFlags::ACK`]: it has come; the answer follows, or not.
    pub flags: QueryFlags,
    /// The answer.
    pub payload: Bytes,
}

impl QueryResponse {
    pub(super) fn read(reader: &mut Reader) -> Result<QueryResponse, WireError> {
        let mut response = QueryResponse::default();
        let fields = ["LTime", "ID", "From", "Flags", "Payload"];
        reader.structure(&fields, |reader, field| {
            match field {
                "LTime" => response.ltime = LamportTime::read(reader, "LTime")?,
                "ID" => response.id = reader.uint("ID")?,
                "From" => response.from = reader.name()?,
                "Flags" => response.flags = QueryFlags(reader.uint("Flags")?),
                _ => response.payload = reader.raw()?,
            }
            Ok(())
        })?;
        Ok(response)
    }

    pub(super) fn write(&self, writer: &mut Writer) {
        writer.map(5);
        writer.key("Flags").uint(self.flags.0);
        writer.key("From").raw(self.from.as_ref());
        writer.key("ID").uint(self.id);
        writer.key("LTime").uint(self.ltime.0);
        writer.key("Payload").raw_or_nil(&self.payload);
    }
}
