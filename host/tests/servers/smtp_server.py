"""The mail server of the tests; start-smtp.sh starts it.

What the local part of a recipient says, it does, for each Message-ID:

    later.N     answers 451 to the first N tries, then takes the mail
    never       answers 550
    later.N.drop  hangs up at the first N tries, after the whole mail has come
    taken.N.drop  takes the mail each time, and hangs up before it says so at the first N tries
"""

import argparse
import asyncio
import email
import json
import os
import ssl
import sys
import threading
from collections import Counter

from aiosmtpd.smtp import AuthResult, LoginPassword, SMTP


class Mails:
    def __init__(self, path):
        self.path = path
        self.tries = Counter()

    def keep(self, server, session, envelope):
        login = session.auth_data.login.decode() if isinstance(session.auth_data, LoginPassword) else None
        mail = {
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "data": envelope.content.decode("utf-8", "replace"),
            "encrypted": server.transport.get_extra_info("sslcontext") is not None,
            "login": login,
        }
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(mail) + "\n")

    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.split("@")[0] == "never":
            return "550 5.1.1 nobody of that name here"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        wish = envelope.rcpt_tos[0].split("@")[0].split(".")
        identity = email.message_from_bytes(envelope.content)["Message-ID"]
        self.tries[identity] += 1
        due = wish[0] in ("later", "taken") and self.tries[identity] <= int(wish[1])
        if wish[0] == "taken" or not due:
            self.keep(server, session, envelope)
        if due and wish[-1] == "drop":
            server.transport.abort()
            return "421 gone"
        if due and wish[0] == "later":
            return "451 4.3.0 come again later"
        return "250 OK"


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--tls", choices=["starttls", "smtps", "none"], default="starttls")
    parser.add_argument("--login")
    parser.add_argument("--port", type=int, default=0)
    return parser.parse_args()


async def serve(given):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(os.path.join(given.data, "cert.pem"), os.path.join(given.data, "key.pem"))
    mails = Mails(os.path.join(given.data, "mails.jsonl"))

    def authenticate(server, session, envelope, mechanism, auth_data):
        name, _, password = (given.login or "").partition(":")
        matches = auth_data.login == name.encode() and auth_data.password == password.encode()
        return AuthResult(success=matches, handled=False, auth_data=auth_data)

    def protocol():
        starttls = given.tls == "starttls"
        return SMTP(
            mails,
            hostname="localhost",
            tls_context=context if starttls else None,
            require_starttls=starttls,
            authenticator=authenticate if given.login else None,
            auth_required=bool(given.login),
            auth_require_tls=starttls,
        )

    tls = context if given.tls == "smtps" else None
    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", given.port, ssl=tls)
    print(f"SMTP_PORT={server.sockets[0].getsockname()[1]}")
    print(f"SMTP_CA={os.path.join(given.data, 'cert.pem')}", flush=True)
    await server.serve_forever()


def end_with_standard_input():
    sys.stdin.buffer.read()
    os._exit(0)


threading.Thread(target=end_with_standard_input, daemon=True).start()
asyncio.run(serve(arguments()))
