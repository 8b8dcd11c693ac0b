//! Start-up and authentication (documentation: "Message Flow", "Start-up"; "SASL Authentication").

use bytes::Bytes;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    ChannelBinding as Binding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use postgres_protocol::message::frontend;
use secrecy::ExposeSecret;

use super::reader::{FRAME_LIMIT, STARTUP_FRAME_LIMIT};
use super::{Frame, Purpose, WireReader, WireWriter};
use crate::postgres::PgError;
use crate::postgres::conninfo::ChannelBinding;
use crate::postgres::session;
use crate::postgres::transport::{Target, authentication, no_password, unbound};

/// What a cancel request needs: process id and secret key as they came.
pub(super) type BackendKey = Option<Bytes>;

/// From the first byte to the first ReadyForQuery.
pub(super) async fn start(
    reader: &mut WireReader,
    writer: &mut WireWriter,
    target: &Target<'_>,
    end_point: Option<Vec<u8>>,
    application_name: &str,
    purpose: Purpose,
) -> Result<BackendKey, PgError> {
    reader.set_frame_limit(STARTUP_FRAME_LIMIT);
    let options = target.options;
    let mut parameters =
        vec![("user", options.user.as_str()), ("database", options.dbname.as_str()), session::CLIENT_ENCODING];
    parameters.push(("application_name", options.application_name.as_deref().unwrap_or(application_name)));
    if let Some(options) = &options.options {
        parameters.push(("options", options));
    }
    if purpose == Purpose::Replication {
        parameters.push(("replication", "database"));
    }
    frontend::startup_message(parameters, writer.buffer()).map_err(|_| PgError::Usage {
        message: "a zero byte in user, database, application_name or options".to_owned(),
    })?;
    writer.flush().await?;
    authenticate(reader, writer, target, end_point).await?;
    let mut key = None;
    loop {
        let frame = reader.frame().await?;
        match frame.tag {
            b'K' if frame.body.len() >= 8 => key = Some(frame.body),
            b'Z' => break,
            b'E' => return Err(reader.server_error(frame)),
            // NegotiateProtocolVersion: nothing beyond 3.0 was asked for, so nothing is lost.
            b'v' => {}
            _ => return Err(reader.unexpected(&frame, "start-up")),
        }
    }
    reader.set_frame_limit(FRAME_LIMIT);
    Ok(key)
}

/// The authentication request codes (documentation: "Message Formats", AuthenticationOk and following).
async fn authenticate(
    reader: &mut WireReader,
    writer: &mut WireWriter,
    target: &Target<'_>,
    end_point: Option<Vec<u8>>,
) -> Result<(), PgError> {
    let mut bound = false;
    loop {
        let (code, body) = request(reader).await?;
        if code != 10 && !bound && target.options.channel_binding == ChannelBinding::Require {
            return Err(unbound(&target.peer));
        }
        let password = || {
            target.password.map(|password| password.expose_secret().as_bytes()).ok_or_else(|| no_password(&target.peer))
        };
        match code {
            0 => return Ok(()),
            3 => send_password(writer, password()?).await?,
            5 => {
                let salt =
                    <[u8; 4]>::try_from(&body[..]).map_err(|_| reader.violation("an md5 salt that is not 4 bytes"))?;
                let hash = md5_hash(target.options.user.as_bytes(), password()?, salt);
                send_password(writer, hash.as_bytes()).await?;
            }
            10 => {
                scram(reader, writer, target, &body, end_point.as_deref(), password()?).await?;
                bound = true;
            }
            7..=9 => {
                return Err(authentication(
                    &target.peer,
                    "the server asks for GSSAPI or SSPI, which walferry does not speak",
                    "give walferry's user a pg_hba.conf line with scram-sha-256 or a certificate",
                ));
            }
            other => {
                return Err(authentication(
                    &target.peer,
                    &format!("the server asks for authentication method {other}, which is not supported"),
                    "give walferry's user a pg_hba.conf line with scram-sha-256",
                ));
            }
        }
    }
}

/// The next authentication request: its code and what follows.
async fn request(reader: &mut WireReader) -> Result<(u32, Bytes), PgError> {
    loop {
        let Frame { tag, mut body } = reader.frame().await?;
        match tag {
            b'R' if body.len() >= 4 => {
                let code = body.split_to(4);
                return Ok((u32::from_be_bytes([code[0], code[1], code[2], code[3]]), body));
            }
            b'v' => {}
            b'E' => return Err(reader.server_error(Frame { tag, body })),
            _ => return Err(reader.unexpected(&Frame { tag, body }, "authentication")),
        }
    }
}

async fn send_password(writer: &mut WireWriter, password: &[u8]) -> Result<(), PgError> {
    frontend::password_message(password, writer.buffer())
        .map_err(|_| PgError::Usage { message: "the password holds a zero byte".to_owned() })?;
    writer.flush().await
}

async fn scram(
    reader: &mut WireReader,
    writer: &mut WireWriter,
    target: &Target<'_>,
    offer: &[u8],
    end_point: Option<&[u8]>,
    password: &[u8],
) -> Result<(), PgError> {
    let offers = |mechanism: &str| offer.split(|byte| *byte == 0).any(|offered| offered == mechanism.as_bytes());
    let wanted = target.options.channel_binding;
    let end_point = end_point.filter(|_| wanted != ChannelBinding::Disable);
    let (mechanism, binding) = match (offers(SCRAM_SHA_256_PLUS), end_point) {
        (true, Some(hash)) => (SCRAM_SHA_256_PLUS, Binding::tls_server_end_point(hash.to_vec())),
        // "I could have": a server that did offer it then knows that somebody in between took the offer away.
        (false, Some(_)) => (SCRAM_SHA_256, Binding::unrequested()),
        (_, None) => (SCRAM_SHA_256, Binding::unsupported()),
    };
    if mechanism != SCRAM_SHA_256_PLUS {
        if wanted == ChannelBinding::Require {
            return Err(unbound(&target.peer));
        }
        if !offers(SCRAM_SHA_256) {
            return Err(authentication(
                &target.peer,
                "the server offers no SASL mechanism walferry speaks",
                "give walferry's user a pg_hba.conf line with scram-sha-256",
            ));
        }
    }
    let bad = |error: std::io::Error| {
        let why = format!("the server does not prove that it knows the password ({error})");
        authentication(&target.peer, &why, "somebody else may answer at this address: check it before sending anything")
    };
    let mut scram = ScramSha256::new(password, binding);
    let encoded = frontend::sasl_initial_response(mechanism, scram.message(), writer.buffer());
    encoded.map_err(|error| reader.violation(error.to_string()))?;
    writer.flush().await?;
    let body = expect(reader, 11).await?;
    scram.update(&body).map_err(bad)?;
    frontend::sasl_response(scram.message(), writer.buffer()).map_err(|error| reader.violation(error.to_string()))?;
    writer.flush().await?;
    let body = expect(reader, 12).await?;
    scram.finish(&body).map_err(bad)
}

async fn expect(reader: &mut WireReader, code: u32) -> Result<Bytes, PgError> {
    match request(reader).await? {
        (got, body) if got == code => Ok(body),
        (got, _) => Err(reader.violation(format!("authentication request {got} where {code} was due"))),
    }
}
