from vkdsurgeon_cli.main import main

main()
