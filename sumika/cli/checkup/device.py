"""What computes: processors, GPUs, and whether the driver carries the CUDA that is installed."""

from __future__ import annotations

from sumika.cli.checkup.finding import Finding, fail, fine, warn
from sumika.serving.machine import Gpu, Machine, Nvidia

_GIB = 2**30
# A GPU with less holds no base of the catalog beside vLLM's own needs.
_LEAST_GPU = 4 * _GIB
# CUDA's major version → oldest driver on Linux x86_64 (NVIDIA CUDA Toolkit Release Notes, "Minimum Required Driver Version for
# CUDA Minor Version Compatibility"); a driver runs every older CUDA.
_DRIVERS = {11: (450, 80, 2), 12: (525, 60, 13), 13: (580, 65, 6)}


def cpu(machine: Machine) -> Finding:
    memory = f"{machine.memory_bytes / _GIB:.0f} GiB"
    return fine("cpu", f"{machine.cores} cores, {memory} of memory", f"{machine.cores} コア、メモリ {memory}")


def gpu(gpus: tuple[Gpu, ...]) -> Finding:
    if not gpus:
        return fine(
            "gpu", "no NVIDIA GPU answers; models run on the CPU, slowly", "NVIDIA GPUが見つかりません。CPUで動作します(低速)"
        )
    told = ", ".join(f"{one.name} ({one.total_bytes / _GIB:.0f} GiB, {one.free_bytes / _GIB:.0f} free)" for one in gpus)
    small = [one.name for one in gpus if one.total_bytes < _LEAST_GPU]
    if small:
        return warn(
            "gpu",
            f"GPU: {told}; {', '.join(small)} is too small for a model",
            f"GPU: {told}。{'、'.join(small)} はメモリが足りません",
        )
    return fine("gpu", f"GPU: {told}", f"GPU: {told}")


def silent(nvidia: Nvidia, setting: str) -> Finding:
    """`setting`: engine.device. With `auto`, a GPU that does not answer stops the supervisor."""
    if nvidia != "silent":
        return fine("gpu_answers", "no GPU is silent", "応答しないGPUはありません")
    if setting == "cpu":
        return warn(
            "gpu_answers", "an NVIDIA driver or GPU is there and does not answer; engine.device: cpu leaves it out",
            "応答しないNVIDIAドライバーまたはGPUがあります(engine.device: cpu のため使いません)",
        )  # fmt: skip
    return fail(
        "gpu_answers", "an NVIDIA driver or GPU is there and nvidia-smi does not answer, so no engine starts; mend the driver, or set engine.device: cpu",
        "NVIDIAドライバーまたはGPUがありますが nvidia-smi が応答しないため、エンジンを起動しません。修復するか engine.device: cpu を設定してください",
    )  # fmt: skip


def driver(version: str | None, cuda: str | None) -> Finding:
    """`version`: of the driver, where one answers; `cuda`: of the installed CUDA runtime, where there is one."""
    if cuda is None:
        if version is not None:
            return warn(
                "driver", f"driver {version} answers, but vLLM's CPU build is installed: the GPU is not used; run 'make install'",
                f"ドライバー {version} がありますが、CPU版のvLLMが導入されています。make install を実行してください",
            )  # fmt: skip
        return fine("driver", "no CUDA is installed, no driver is needed", "CUDAは未導入のため、ドライバーは不要です")
    if version is None:
        return fail(
            "driver", f"CUDA {cuda} is installed and no NVIDIA driver answers; install one, and see that 'nvidia-smi' works for this user",
            f"CUDA {cuda} が導入されていますが、NVIDIAドライバーが応答しません。導入し、このユーザーで nvidia-smi が動くことを確認してください",
        )  # fmt: skip
    floor = _DRIVERS.get(int(cuda.partition(".")[0]))
    if floor is None:
        return warn(
            "driver", f"driver {version}; which one CUDA {cuda} needs is not known here: see NVIDIA's release notes",
            f"ドライバー {version}。CUDA {cuda} に必要な版は不明です。NVIDIAのリリースノートを確認してください",
        )  # fmt: skip
    if tuple(int(part) for part in version.split(".") if part.isdigit()) < floor:
        needed = ".".join(f"{part:02d}" for part in floor)
        return fail(
            "driver", f"driver {version} is too old for CUDA {cuda}; install {needed} or newer",
            f"ドライバー {version} はCUDA {cuda} には古すぎます。{needed} 以降を導入してください",
        )  # fmt: skip
    return fine("driver", f"driver {version} carries CUDA {cuda}", f"ドライバー {version} はCUDA {cuda} に対応しています")
