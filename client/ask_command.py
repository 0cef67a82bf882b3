"""`qwen3vl ask`: one question to a server, the answer as it comes."""

from __future__ import annotations

import argparse
import json
import sys

from client.answer import Delta
from client.chat import VisionChat
from client.errors import BadRequest, Busy, ChatError, ServerUnavailable, TimedOut
from client.request import SAMPLING

HELP = "ask a server about text, images and videos"
EXIT_CODES = {BadRequest: 2, ServerUnavailable: 3, Busy: 4, TimedOut: 5}
INTERRUPTED = 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = ("exit codes: 0 answered, 1 the server failed, 2 the request is wrong, 3 no server, 4 the server "
                     "is busy, 5 timed out, 130 interrupted")
    parser.add_argument("question", help="what to ask; with --messages, chat messages in JSON")
    parser.add_argument("--image", action="append", default=[], metavar="FILE", help="may be given several times")
    parser.add_argument("--video", action="append", default=[], metavar="FILE", help="may be given several times")
    parser.add_argument("--messages", action="store_true", help="the question is a JSON list of chat messages")
    parser.add_argument("--url", help="host:port (default: 127.0.0.1:8001, with --http 127.0.0.1:8000)")
    parser.add_argument("--http", action="store_true", help="use HTTP instead of gRPC")
    parser.add_argument("--no-stream", action="store_true", help="print the answer when it is complete")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="for the whole answer (default: none)")
    parser.add_argument("--usage", action="store_true", help="print token counts to the standard error output")
    sampling = parser.add_argument_group("sampling", "what is not given is up to the server")
    for name, kind in (("max-tokens", int), ("temperature", float), ("top-p", float), ("top-k", int), ("seed", int),
                       ("repetition-penalty", float)):
        sampling.add_argument(f"--{name}", type=kind)
    sampling.add_argument("--stop", action="append", metavar="TEXT", help="ends the answer; may be given several times")


def run(args: argparse.Namespace) -> int:
    chat = VisionChat(args.url, "http" if args.http else "grpc", args.timeout)
    sampling = {name: getattr(args, name) for name in SAMPLING}
    try:
        question = _messages(args.question) if args.messages else args.question
        last = _print_answer(chat, question, args, sampling)
    except ChatError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_CODES.get(type(error), 1)
    except KeyboardInterrupt:
        # The stream has been cancelled on the way here.
        print(file=sys.stderr)
        return INTERRUPTED
    if args.usage:
        usage = last.usage
        print(f"{usage.prompt_tokens} prompt tokens, {usage.completion_tokens} generated, ended by "
              f"{last.finish_reason}", file=sys.stderr)
    return 0


def _print_answer(chat: VisionChat, question: str | list, args: argparse.Namespace, sampling: dict) -> Delta:
    """Print the answer, and return the last piece of it."""
    if args.no_stream:
        answer = chat.ask(question, args.image, args.video, **sampling)
        print(answer.text)
        return Delta("", answer.finish_reason, answer.usage)
    with chat.stream(question, args.image, args.video, **sampling) as deltas:
        for delta in deltas:
            print(delta.text, end="", flush=True)
    print()
    return delta


def _messages(text: str) -> list:
    try:
        return json.loads(text)
    except ValueError as error:
        raise BadRequest(f"the messages are not valid JSON: {error}") from None
