@echo off
rem build.bat - builds yolo.exe on Windows with MSVC, and with CUDA where nvcc is found.
rem
rem   build.bat [cpu ^| cuda ^| clean] [all]      run it in an "x64 Native Tools Command Prompt for VS"
rem     cpu     yolo.exe for the CPU                       (cl)
rem     cuda    yolo.exe for the CPU and NVIDIA GPUs       (cl and nvcc): this machine's; with all, or where there is none, all
rem     clean   removes what the others made
rem   Without a target: cuda where nvcc works, else cpu.
rem
rem   set STB_DIR=C:\path\to\stb        the folder that holds stb_image.h and stb_image_write.h
setlocal
cd /d "%~dp0"
set "target=%~1"
set "wanted=%~2"
if "%target%"=="clean" goto clean
if not "%target%"=="" if not "%target%"=="cpu" if not "%target%"=="cuda" goto usage
if not "%wanted%"=="" if not "%wanted%"=="all" goto usage
if not exist build mkdir build

rem C11, 64 bits: the compilers of an "x86" prompt would build what has no use for its memory.
>build\probe.c echo typedef char bits[sizeof(void *) == 8 ? 1 : -1]; int main(void) { return 0; }
cl /nologo /std:c11 /Fobuild\ /Febuild\probe.exe build\probe.c >build\probe.log 2>&1
if errorlevel 1 (
    echo   no   compiler   cl is missing, or not of x64, or older than Visual Studio 2019 16.8: see build\probe.log
    echo                   next: open an "x64 Native Tools Command Prompt for VS" and run build.bat there
    exit /b 1
)
echo   yes  compiler   cl

rem A quote would end the words of the commands below, and so would a backslash before theirs.
if defined STB_DIR set "STB_DIR=%STB_DIR:"=%"
if not defined STB_DIR if exist stb\stb_image.h set "STB_DIR=stb"
if not defined STB_DIR goto no_stb
if "%STB_DIR:~-1%"=="\" set "STB_DIR=%STB_DIR:~0,-1%"
if not exist "%STB_DIR%\stb_image.h" goto no_stb
if not exist "%STB_DIR%\stb_image_write.h" goto no_stb
echo   yes  stb        "%STB_DIR%"

rem The page as bytes of C, for yolo.c.
if not exist ui.html goto page_made
>build\embed.c echo #include ^<stdio.h^>
>>build\embed.c echo int main(void) { int c, n = 0; printf("static const unsigned char ui_html[] = {"); while ((c = getchar()) != EOF) printf(n++ %% 32 ? "%%d," : "\n%%d,", c); puts("};"); return 0; }
cl /nologo /Fobuild\ /Febuild\embed.exe build\embed.c >build\embed.log 2>&1
if errorlevel 1 exit /b 1
build\embed.exe <ui.html >build\ui.h
:page_made

if "%target%"=="cpu" goto build_cpu
>build\probe.cu echo int main(void) { int n; return cudaGetDeviceCount(^&n) != cudaSuccess; }
nvcc -cudart static -o build\probe.exe build\probe.cu >build\probe.log 2>&1
if not errorlevel 1 goto build_cuda
echo   no   nvcc       not found, or it does not compile: see build\probe.log
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

rem The list of build.sh, of which nvcc takes what it knows; newer GPUs translate the last one's text.
:build_cuda
set "codes="
set "last="
nvcc --list-gpu-arch >build\known.txt
if not "%wanted%"=="all" for /f "tokens=1,2 delims=." %%a in ('nvidia-smi "--query-gpu=compute_cap" "--format=csv,noheader" 2^>nul') do call :add_if_known %%a%%b
if not "%codes%"=="" goto compile_cuda
for %%a in (60 70 75 80 86 89 90 100 120) do call :add_if_known %%a
set "codes=%codes% -gencode arch=compute_%last%,code=compute_%last%"
:compile_cuda
rem What nvcc 13 packs, drivers older than CUDA 12.4 cannot read; nvcc 12, which has 7.0, serves those.
set "packed=--compress-mode=size"
for /f %%k in (build\known.txt) do if "%%k"=="compute_70" set "packed=-Xfatbin=-compress-all"
echo   yes  nvcc      %codes%
@echo on
cl /nologo /std:c11 /utf-8 /O2 /W3 /fp:precise /MT /I "%STB_DIR%" /c /Fobuild\yolo.obj yolo.c
@echo off
if errorlevel 1 exit /b 1
@echo on
nvcc -O3 -std=c++17 %codes% %packed% --threads 0 -cudart static -Xptxas=-warn-spills -Xcompiler=/utf-8,/O2,/W3,/MT -o yolo.exe build\yolo.obj kernels.cu shell32.lib
@echo off
if errorlevel 1 exit /b 1
del /q yolo.lib yolo.exp 2>nul

:done
echo done: yolo.exe
exit /b 0

:add_if_known
for /f %%k in (build\known.txt) do if "%%k"=="compute_%1" call :add %1
exit /b 0

rem Some instructions of 9.0 are in no other: code for it is 90a.
:add
if "%last%"=="%1" exit /b 0
set "last=%1"
set "code=%1"
if "%code%"=="90" set "code=90a"
set "codes=%codes% -gencode arch=compute_%code%,code=sm_%code%"
exit /b 0

:no_stb
echo   no   stb        stb_image.h or stb_image_write.h is not in "%STB_DIR%"; next: get stb, set STB_DIR=its folder, run build.bat again
exit /b 1

:usage
echo build.bat: unknown argument: cpu, cuda or clean, then nothing or all
exit /b 2

:clean
if exist build rmdir /s /q build
del /q yolo.exe yolo.lib yolo.exp 2>nul
exit /b 0
