#!/usr/bin/env bash
# Starts a mail server (aiosmtpd, from PyPI) that keeps what it gets, and stays with it: it ends when standard input closes, however whoever
# started it ends.
#
#   start-smtp.sh DATA [--tls starttls | smtps | none] [--login NAME:PASSWORD] [--port PORT]
#
# DATA                  a folder; mails go to DATA/mails.jsonl, one JSON object a line: {"from", "to", "data", "encrypted", "login"}
# --tls                 starttls (default: no mail before it), smtps (from the first byte), none
# --login NAME:PASSWORD no mail before this login
# --port PORT           default: a free one
#
# Prints SMTP_PORT=PORT and SMTP_CA=FILE when it serves. smtp_server.py says what it does on purpose for some recipients.
#
# Needs python3 with venv, and openssl; the packages are kept in ${WASMILL_SERVERS:-~/.cache/wasmill/servers}.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
VENV=${WASMILL_SERVERS:-${XDG_CACHE_HOME:-$HOME/.cache}/wasmill/servers}/smtp-$(cksum < "$HERE/smtp-requirements.txt" | cut -d ' ' -f 1)
DATA=$1
shift

missing() {
  printf 'start-smtp.sh: %s\n  Debian, Ubuntu: apt-get install %s\n' "$1" "$2" >&2
  exit 1
}

# Made in a folder of its own and renamed at the end, so that neither an interrupted nor a parallel installation leaves half of it.
install() {
  command -v python3 >/dev/null || missing "no \`python3\` on the PATH" "python3 python3-venv"
  local part=$VENV.part.$$
  mkdir -p "$(dirname "$VENV")"
  echo "start-smtp.sh: installing a mail server into $VENV (once)" >&2
  { python3 -m venv "$part" && "$part/bin/python" -m pip install --quiet --disable-pip-version-check -r "$HERE/smtp-requirements.txt" >&2; } \
    || { rm -rf "$part"; missing "the installation failed (see above); python3 needs its module venv" python3-venv; }
  if [ -d "$VENV" ]; then rm -rf "$part"; else mv "$part" "$VENV"; fi
}

[ -d "$VENV" ] || install
mkdir -p "$DATA"
command -v openssl >/dev/null || missing "no \`openssl\` on the PATH; it makes the certificate" openssl
[ -e "$DATA/cert.pem" ] || openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 -subj /CN=wasmill-tests \
  -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout "$DATA/key.pem" -out "$DATA/cert.pem" 2> "$DATA/openssl.log" \
  || { cat "$DATA/openssl.log" >&2; exit 1; }
exec "$VENV/bin/python" "$HERE/smtp_server.py" "$DATA" "$@"
