@echo off
rem build.bat - builds yolo.exe on Windows with MSVC, and with CUDA where nvcc is found.
rem
rem   build.bat [cpu ^| cuda ^| clean]      run it in an "x64 Native Tools Command Prompt for VS"
rem     cpu     yolo.exe for the CPU                       (cl)
rem     cuda    yolo.exe for the CPU and NVIDIA GPUs       (cl and nvcc)
rem     clean   removes what the others made
rem   Without a target: cuda where nvcc works, else cpu.
rem
rem   set STB_DIR=C:\path\to\stb        the folder that holds stb_image.h and stb_image_write.h
setlocal
cd /d "%~dp0"
set target=%~1
if "%target%"=="clean" goto clean
if not "%target%"=="" if not "%target%"=="cpu" if not "%target%"=="cuda" (
    echo build.bat: unknown target %target%: cpu, cuda or clean
    exit /b 2
)
if not exist build mkdir build

where cl >nul 2>nul
if errorlevel 1 (
    echo   no   compiler   cl is not on the PATH; next: open an "x64 Native Tools Command Prompt for VS" and run build.bat there
    exit /b 1
)
echo   yes  compiler   cl

if "%STB_DIR%"=="" if exist stb\stb_image.h set STB_DIR=stb
if not exist "%STB_DIR%\stb_image.h" (
    echo   no   stb        stb_image.h not found; next: get stb, set STB_DIR=its folder, run build.bat again
    exit /b 1
)
if not exist "%STB_DIR%\stb_image_write.h" (
    echo   no   stb        stb_image_write.h is not in %STB_DIR%
    exit /b 1
)
echo   yes  stb        %STB_DIR%

set nvcc_works=0
if "%target%"=="cpu" goto build_cpu
echo int main(void) { int n; return cudaGetDeviceCount(^&n) != cudaSuccess; }> build\probe.cu
nvcc -cudart static -o build\probe.exe build\probe.cu >build\probe.log 2>&1
if not errorlevel 1 set nvcc_works=1
if "%nvcc_works%"=="1" goto build_cuda
echo   no   nvcc       not found, or it does not compile (build\probe.log)
if "%target%"=="cuda" (
    echo build.bat: the CUDA toolkit is needed; next: build.bat cpu
    exit /b 1
)

:build_cpu
@echo on
cl /nologo /std:c11 /utf-8 /O2 /W3 /fp:precise /MT /DYOLO_NO_CUDA /I "%STB_DIR%" /Fobuild\ /Feyolo.exe yolo.c shell32.lib
@echo off
if errorlevel 1 exit /b 1
goto done

:build_cuda
echo   yes  nvcc       all major architectures
@echo on
cl /nologo /std:c11 /utf-8 /O2 /W3 /fp:precise /MT /I "%STB_DIR%" /c /Fobuild\yolo.obj yolo.c
@echo off
if errorlevel 1 exit /b 1
@echo on
nvcc -O3 -arch=all-major -gencode=arch=compute_90a,code=sm_90a -cudart static -Xcompiler=/utf-8,/O2,/W3,/MT -o yolo.exe build\yolo.obj kernels.cu shell32.lib
@echo off
if errorlevel 1 exit /b 1
del /q yolo.lib yolo.exp 2>nul

:done
echo done: yolo.exe
exit /b 0

:clean
if exist build rmdir /s /q build
del /q yolo.exe yolo.lib yolo.exp 2>nul
exit /b 0
