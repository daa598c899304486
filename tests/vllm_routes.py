"""Prints every route that the installed vLLM can have, as JSON: each kind of task and the developers' mode on, and every
router that the package carries, whether today's options attach it or not."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import sys
from pathlib import Path
from types import SimpleNamespace

os.environ |= {"VLLM_SERVER_DEV_MODE": "1", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "HF_HUB_OFFLINE": "1"}

from fastapi import APIRouter
from vllm import entrypoints
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.entrypoints.openai.api_server import build_app
from vllm.tasks import POOLING_TASKS
from vllm.utils.argparse_utils import FlexibleArgumentParser


def main() -> None:
    args = make_arg_parser(FlexibleArgumentParser()).parse_args([])
    args.enable_fault_tolerance = args.enable_tokenizer_info_endpoint = True
    embedding = SimpleNamespace(get_pooling_task=lambda tasks: "embed", hf_config=SimpleNamespace(), is_multimodal_model=False)
    tasks = ("generate", "transcription", "realtime", "render", *POOLING_TASKS)
    found = {route.path for route in build_app(args, tasks, embedding).routes}
    for module in pkgutil.walk_packages(entrypoints.__path__, "vllm.entrypoints."):
        if "router" in module.name:
            values = vars(importlib.import_module(module.name)).values()
            found |= {route.path for value in values if isinstance(value, APIRouter) for route in value.routes}
    Path(sys.argv[1]).write_text(json.dumps(sorted(found)))


if __name__ == "__main__":
    main()
