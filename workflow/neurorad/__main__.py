from neurorad.cli import main

main()
