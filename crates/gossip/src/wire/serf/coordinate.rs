//! Where a node is in the space of network delays; it travels in the answers to pings.

use bytes::Bytes;

use crate::wire::WireError;
use crate::wire::msgpack::{Reader, Writer};

/// Dimensions of the space (serf: coordinate/config.go `DefaultConfig`).
pub const COORDINATE_DIMENSIONS: usize = 8;

/// The first byte of an ack's payload. Wire value: append only.
const VERSION: u8 = 1;

/// A place in the space, in seconds of delay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Coordinate {
    /// The place.
    pub vec: [f64; COORDINATE_DIMENSIONS],
    /// How much it is to be believed: 0 is certain.
    pub error: f64,
    /// What is added to correct for the last measurements.
    pub adjustment: f64,
    /// The node's own delay to anywhere.
    pub height: f64,
}

impl Coordinate {
    /// Reads an ack's payload.
    ///
    /// # Errors
    ///
    /// It is something else, has another number of dimensions, or a number that is not finite.
    pub fn decode(payload: &Bytes) -> Result<Coordinate, WireError> {
        match payload.first() {
            Some(&VERSION) => Coordinate::read(&mut Reader::new(payload.slice(1..))),
            Some(&found) => Err(WireError::UnknownType {
                what: "a coordinate",
                found,
            }),
            None => Err(WireError::Empty),
        }
    }

    fn read(reader: &mut Reader) -> Result<Coordinate, WireError> {
        let (mut vec, mut rest) = (Vec::new(), [0.0; 3]);
        let fields = ["Vec", "Error", "Adjustment", "Height"];
        reader.structure(&fields, |reader, field| {
            match field {
                "Vec" => vec = reader.list("dimensions", COORDINATE_DIMENSIONS, Reader::float)?,
                "Error" => rest[0] = reader.float()?,
                "Adjustment" => rest[1] = reader.float()?,
                _ => rest[2] = reader.float()?,
            }
            Ok(())
        })?;
        let field = "a coordinate (8 finite dimensions)";
        let vec = vec
            .try_into()
            .map_err(|_| WireError::OutOfRange { field })?;
        let [error, adjustment, height] = rest;
        let coordinate = Coordinate {
            vec,
            error,
            adjustment,
            height,
        };
        if !coordinate.is_finite() {
            return Err(WireError::OutOfRange { field });
        }
        Ok(coordinate)
    }

    /// An ack's payload.
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::with_type(VERSION);
        writer.map(4);
        writer.key("Adjustment").float(self.adjustment);
        writer.key("Error").float(self.error);
        writer.key("Height").float(self.height);
        writer.key("Vec").array(self.vec.len());
        for dimension in self.vec {
            writer.float(dimension);
        }
        Bytes::from(writer.into_bytes())
    }

    /// Whether each of its numbers is one.
    pub fn is_finite(&self) -> bool {
        let rest = [self.error, self.adjustment, self.height];
        self.vec
            .iter()
            .chain(&rest)
            .all(|number| number.is_finite())
    }
}
