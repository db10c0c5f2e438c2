"""Ways out by sockets."""

from __future__ import annotations

from tests.abuse.arena import Arena, case


@case(16)
async def test_no_connection_leaves_its_own_loopback(arena: Arena) -> None:
    seen = await arena.python("""
port, name = int(os.environ["CANARY_PORT"]), os.environ["CANARY_SOCKET"]
def connect(family, address, kind=socket.SOCK_STREAM):
    with socket.socket(family, kind) as one:
        one.settimeout(3)
        one.connect(address)
        if kind == socket.SOCK_DGRAM:
            one.send(b"x")
            one.recv(1)
tell(loopback=attempt(connect, socket.AF_INET, ("127.0.0.1", port)),
     any=attempt(connect, socket.AF_INET, ("0.0.0.0", port)),
     six=attempt(connect, socket.AF_INET6, ("::1", port)),
     mapped=attempt(connect, socket.AF_INET6, ("::ffff:127.0.0.1", port)),
     outside=attempt(connect, socket.AF_INET, ("192.0.2.1", 80)),
     datagram=attempt(connect, socket.AF_INET, ("192.0.2.1", 53), socket.SOCK_DGRAM),
     loopback_datagram=attempt(connect, socket.AF_INET, ("127.0.0.1", port), socket.SOCK_DGRAM),
     broadcast=attempt(connect, socket.AF_INET, ("255.255.255.255", 9), socket.SOCK_DGRAM),
     abstract=attempt(connect, socket.AF_UNIX, chr(0) + name))
""")
    refused = {"ECONNREFUSED", "ENETUNREACH", "EACCES", "EADDRNOTAVAIL"}
    assert set(seen.told.values()) <= refused, seen.told


@case(17)
async def test_no_socket_but_of_unix_and_internet_can_be_made(arena: Arena) -> None:
    seen = await arena.python("""
told = {}
for family in range(64):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
        for make in (socket.socket, socket.socketpair):
            answer = attempt(make, family, kind)
            if family not in (1, 2, 10):
                told.setdefault(answer, []).append([family, kind])
tell(**told)
""")
    assert set(seen.told) == {"EPERM"}, seen.told


@case(93)
async def test_raw_and_ping_sockets_are_refused(arena: Arena) -> None:
    seen = await arena.python("""
told = {}
for family in (socket.AF_INET, socket.AF_INET6):
    for protocol in (1, 6, 17, 58, 255):
        told[f"raw {family} {protocol}"] = attempt(
            socket.socket, family, socket.SOCK_RAW, protocol)
told["ping"] = attempt(socket.socket, socket.AF_INET, socket.SOCK_DGRAM, 1)
told["packet"] = attempt(socket.socket, socket.AF_INET, socket.SOCK_PACKET
                         if hasattr(socket, "SOCK_PACKET") else 10)
tell(**told)
""")
    assert "OK" not in seen.told.values(), seen.told


@case(94)
async def test_taking_every_port_takes_none_of_the_hosts(arena: Arena) -> None:
    source = """
held = []
def hold(port):
    one = socket.socket()
    one.bind(("0.0.0.0", port))
    one.listen()
    held.append(one)
own = attempt(hold, int(os.environ["CANARY_PORT"]))
low = attempt(hold, 80)
for port in range(20000, 20400):
    hold(port)
tell(own=own, low=low, held=len(held))
time.sleep(100)
"""
    async with arena.open(arena.python_spec(source)) as run:
        line = await arena.first_line(run)
        assert b'"own": "OK"' in line
        assert b'"low": "EACCES"' in line
        neighbour = await arena.python("""
with socket.create_server(("127.0.0.1", 20000)) as one:
    tell(bound=True, other=attempt(socket.create_connection, ("127.0.0.1", 20001)))
""")
    assert neighbour.told == {"bound": True, "other": "ECONNREFUSED"}


@case(95)
async def test_it_has_one_interface_and_cannot_change_it(arena: Arena) -> None:
    seen = await arena.python("""
lines = read("/proc/net/dev").decode().splitlines()[2:]
one = socket.socket()
request = ctypes.create_string_buffer(b"lo", 40)
name = lambda number: attempt(fcntl.ioctl, one, number, bytearray(request.raw))
tell(names=[line.split(":")[0].strip() for line in lines], flags=name(0x8914), address=name(0x8916),
     route=attempt(fcntl.ioctl, one, 0x890B, bytearray(120)), mtu=name(0x8922),
     routes=read("/proc/net/route").decode().splitlines()[1:])
""")
    told = seen.told
    assert told.pop("names") == ["lo"]
    assert told.pop("routes") == []
    assert set(told.values()) <= {"EPERM", "EACCES"}, told
