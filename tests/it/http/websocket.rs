//! H26: WebSocket through the proxy, with a client and a server that are not ours.

use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, Frame};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, accept_async, client_async};

use super::raw::{Proxy, Setup};

/// Sends messages back; what ended each connection is told.
async fn echo() -> (u16, tokio::sync::mpsc::UnboundedReceiver<Option<CloseFrame>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("its address").port();
    let (told, ends) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let told = told.clone();
            tokio::spawn(async move {
                let mut socket = accept_async(stream).await.expect("a handshake");
                while let Some(Ok(message)) = socket.next().await {
                    match message {
                        Message::Close(frame) => told.send(frame).expect("the test listens"),
                        Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
                        message => socket.send(message).await.expect("the client listens"),
                    }
                }
            });
        }
    });
    (port, ends)
}

async fn connect(proxy: &Proxy) -> WebSocketStream<TcpStream> {
    let stream = TcpStream::connect(proxy.address).await.expect("the proxy accepts");
    let (socket, answer) = client_async("ws://api/chat", stream).await.expect("a handshake");
    assert_eq!(answer.status(), 101);
    socket
}

#[tokio::test]
async fn messages_of_all_kinds_come_back_and_both_say_goodbye_h26() {
    let (port, mut ends) = echo().await;
    let proxy = Setup::new().upstream(|upstream| upstream.port = port).start();
    let mut socket = connect(&proxy).await;
    let large: Vec<u8> = (0..4_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    for message in [
        Message::text("short"),
        Message::text(""),
        Message::binary(vec![0, 1, 255]),
        Message::binary(vec![7; 65_535]),
        Message::binary(vec![7; 65_536]),
        Message::binary(large),
    ] {
        socket.send(message.clone()).await.expect("it is taken");
        let echo = socket.next().await.expect("a message").expect("a good one");
        assert_eq!(echo, message);
    }
    // In fragments, with a ping between them.
    for (text, opcode, is_last) in
        [("one, ", Data::Text, false), ("two, ", Data::Continue, false), ("three", Data::Continue, true)]
    {
        if is_last {
            socket.send(Message::Ping("there?".into())).await.expect("it is taken");
        }
        let frame = Frame::message(text, OpCode::Data(opcode), is_last);
        socket.send(Message::Frame(frame)).await.expect("it is taken");
    }
    assert_eq!(socket.next().await.expect("a message").expect("a good one"), Message::Pong("there?".into()));
    assert_eq!(socket.next().await.expect("a message").expect("a good one"), Message::text("one, two, three"));
    let goodbye = CloseFrame { code: CloseCode::Normal, reason: "done".into() };
    socket.close(Some(goodbye.clone())).await.expect("it is taken");
    assert_eq!(socket.next().await.expect("an answer").expect("a good one"), Message::Close(Some(goodbye.clone())));
    assert!(matches!(socket.next().await, None | Some(Err(Error::ConnectionClosed))));
    assert_eq!(ends.recv().await.expect("the server's end"), Some(goodbye));
}

#[tokio::test]
async fn many_talk_at_once_and_none_hears_another_h26() {
    let (port, _ends) = echo().await;
    let proxy = Setup::new().upstream(|upstream| upstream.port = port).start();
    let mut sockets = Vec::new();
    for _ in 0..20 {
        sockets.push(connect(&proxy).await);
    }
    for round in 0..5 {
        for (n, socket) in sockets.iter_mut().enumerate() {
            socket.send(Message::text(format!("{round} of {n}"))).await.expect("it is taken");
        }
        for (n, socket) in sockets.iter_mut().enumerate() {
            let echo = socket.next().await.expect("a message").expect("a good one");
            assert_eq!(echo, Message::text(format!("{round} of {n}")));
        }
    }
}
